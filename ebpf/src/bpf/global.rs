//! Parts of the translators as global functions.
//!
//! The verifier checks a global function once, by itself, and not again for every way that leads to
//! its call: without this the ways multiply beyond its limit. The memory behind the arguments is known
//! to it by their types (BTF). A function must use all its arguments: one that is optimised away is not
//! passed, and the verifier refuses the call. So there are several kinds.

//!
//! A part stands in the module `global` beside the function that it wraps. All take the working memory from its map, as it
//! is key and value of other maps.

/// A part of the address translator.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident, $global:ident, $function:path) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(skb: *mut ::aya_ebpf::bindings::__sk_buff, _: &mut $crate::scratch::Scratch) -> i32 {
            $global(skb)
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global(skb: *mut ::aya_ebpf::bindings::__sk_buff) -> i32 {
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { $crate::scratch::scratch() }) else {
                return $crate::packet::NEXT;
            };
            $function(skb, scratch)
        }
    };
}

/// A part that is lent the working memory, and gets at it by itself: the verifier of Linux 6.1 lets no memory behind
/// an argument be the key or value of a map.
macro_rules! packet_part {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $part:path, $nothing:expr;)+) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(skb: *mut ::aya_ebpf::bindings::__sk_buff, scratch: &mut $crate::scratch::Scratch) -> i32 {
            $crate::bpf::helper::changed(scratch);
            let result = $global(skb);
            $crate::bpf::helper::changed(scratch);
            result
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global(skb: *mut ::aya_ebpf::bindings::__sk_buff) -> i32 {
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { $crate::scratch::scratch() }) else {
                return $nothing;
            };
            $part(&::aya_ebpf::programs::TcContext::new(skb), scratch)
        }
    )+ };
}

/// The same for a flow.
macro_rules! flow_part {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $part:path;)+) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(flow: &mut ::truename_common::layout::RpcFlow, scratch: &mut $crate::scratch::Scratch) {
            $crate::bpf::helper::changed(scratch);
            $global(flow);
            $crate::bpf::helper::changed(scratch);
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global(flow: *mut ::truename_common::layout::RpcFlow) -> i32 {
            if flow.is_null() {
                return 0;
            }
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { $crate::scratch::scratch() }) else {
                return 0;
            };
            // SAFETY: as above.
            $part(unsafe { &mut *flow }, scratch);
            0
        }
    )+ };
}

/// A question about the working memory, which it is lent.
macro_rules! question {
    ($($(#[$doc:meta])* $name:ident, $global:ident = $part:path;)+) => { $(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(scratch: &mut $crate::scratch::Scratch) -> bool {
            $crate::bpf::helper::changed(scratch);
            let answer = $global() != 0;
            $crate::bpf::helper::changed(scratch);
            answer
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $global() -> i32 {
            // SAFETY: the only caller lends it.
            let Some(scratch) = (unsafe { $crate::scratch::scratch() }) else {
                return 0;
            };
            i32::from($part(&scratch.headers, &mut scratch.found))
        }
    )+ };
}

pub(crate) use {flow_part, packet_part, part, question};
