//! Making room in a full table of connections.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_for_each_map_elem, bpf_map_delete_elem};
use truename_common::{
    layout::{Conntrack, Counter, Settings, settings_flags},
    nat::Spare,
};

use super::entry::now;
use crate::{
    maps::{CONNTRACK, SETTINGS, count},
    scratch::{Removal, scratch},
};

/// Removes entries that the agent would, of those that go first: it may be away, or slower than connections come.
/// Whether there were any.
///
/// # Safety
/// `removal` is that of the working memory. It is a pointer because the callback changes it, too.
#[inline(always)]
pub unsafe fn make_room(removal: *mut Removal, settings: &Settings) -> bool {
    /// How long nothing is looked for after nothing was found: to look at all entries takes milliseconds.
    const PAUSE_NS: u64 = 100_000_000;
    /// Entries that are removed at once: few enough for one packet, many enough to be worth the search.
    const AT_ONCE: u32 = 256;
    let now_ns = now();
    // SAFETY: the caller's. A write that nothing here reads is for the callback.
    let (in_vain_ns, left) = unsafe { ((*removal).in_vain_ns, &raw mut (*removal).left) };
    if now_ns.wrapping_sub(in_vain_ns) < PAUSE_NS {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        (&raw mut (*removal).now_ns).write_volatile(now_ns);
        left.write_volatile(AT_ONCE);
    }
    for spare in Spare::ALL {
        if spare.is_evicted() && settings.flags & settings_flags::EVICT == 0 {
            break;
        }
        // SAFETY: as above. The callback has the type that the helper calls for a hash (Linux 5.13). A map is a static
        // of which the helper is given the address. The callback takes its state from the working memory: Linux 6.18's
        // verifier fails (EFAULT) where it has to follow it to the caller's stack.
        let removed = unsafe {
            (&raw mut (*removal).spare).write_volatile(spare as u32);
            bpf_for_each_map_elem(
                (&raw const CONNTRACK).cast_mut().cast(),
                remove as *mut c_void,
                ptr::null_mut(),
                0,
            );
            AT_ONCE.wrapping_sub(left.read_volatile())
        };
        if removed > 0 {
            count(Counter::NatCollected, u64::from(removed));
            return true;
        }
    }
    // SAFETY: as above.
    unsafe { (*removal).in_vain_ns = now_ns };
    false
}

/// A step of [`make_room`]: 1 ends it.
#[inline(never)]
unsafe extern "C" fn remove(
    map: *mut c_void,
    key: *mut c_void,
    entry: *const Conntrack,
    _: *mut c_void,
) -> i64 {
    // SAFETY: `make_room` lends the working memory while the helper runs.
    let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
        return 1;
    };
    let removal = &mut scratch.nat.removal;
    let spare = Spare::from_number(removal.spare);
    // SAFETY: the helper gives the entry, which is valid for the call.
    if !spare.has(unsafe { &*entry }, settings, removal.now_ns) {
        return 0;
    }
    // SAFETY: map and key are the helper's.
    if unsafe { bpf_map_delete_elem(map, key) } == 0 {
        removal.left = removal.left.wrapping_sub(1);
    }
    i64::from(removal.left == 0)
}

/// What the verifier checks once; see [`crate::bpf::global`].
pub mod global {
    use crate::{
        maps::SETTINGS,
        scratch::{Scratch, scratch},
    };

    /// [`super::make_room`].
    #[inline(always)]
    pub fn make_room(_: &mut Scratch) -> bool {
        tn_make_room() != 0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn tn_make_room() -> i32 {
        // SAFETY: `make_room`, the only caller, lends it.
        let (Some(scratch), Some(settings)) = (unsafe { scratch() }, SETTINGS.get(0)) else {
            return 0;
        };
        // SAFETY: it is that of the working memory.
        i32::from(unsafe { super::make_room(&raw mut scratch.nat.removal, settings) })
    }
}
