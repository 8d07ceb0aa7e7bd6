//! System calls for which std has no safe form. All unsafe code of this crate is here.

mod error_queue;
mod instructions;
mod tap;

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    mem,
    net::TcpStream,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    ptr,
    time::Duration,
};

pub use error_queue::NetworkError;
pub(crate) use error_queue::take_error;
pub(crate) use instructions::{Instruction, detach_link, pin_classifier};
pub(crate) use tap::{VIRTIO_HEADER, set_link_type, tap};

/// Turns the `-1` of libc into the error it stands for.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter_network(namespace: &File) -> io::Result<()> {
    // SAFETY: setns takes a descriptor that is open for the whole call and no pointer.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Lets `command` run in a network namespace, with the given files put in place of others
/// (`(private, public)`, bind mounts in a mount namespace of its own), and die with its parent thread.
pub(crate) fn confine(
    command: &mut Command,
    namespace: Option<File>,
    files: &[(PathBuf, PathBuf)],
) -> io::Result<()> {
    let files = files
        .iter()
        .map(|(private, public)| Ok((path_string(private)?, path_string(public)?)))
        .collect::<io::Result<Vec<_>>>()?;
    let setup = move || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes integers only.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: signal(SIG_DFL) takes integers only. A job in the background inherits that it is ignored.
        if unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        if let Some(namespace) = &namespace {
            enter_network(namespace)?;
        }
        if files.is_empty() {
            return Ok(());
        }
        // SAFETY: unshare takes integers only; the child has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE)?;
        for (private, public) in &files {
            mount(Some(private), public, libc::MS_BIND)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, on values prepared before.
    unsafe { command.pre_exec(setup) };
    Ok(())
}

/// Mounts the BPF file system at `target`.
pub(crate) fn mount_bpffs(target: &Path) -> io::Result<()> {
    let target = path_string(target)?;
    // SAFETY: all pointers are NUL-terminated strings that live for the whole call, the data may be null.
    check(unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            0,
            ptr::null(),
        )
    })
    .map(drop)
}

fn mount(
    source: Option<&CString>,
    target: &std::ffi::CStr,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let source = source.map_or(ptr::null(), |source| source.as_ptr());
    // SAFETY: source and target are NUL-terminated strings that live for the whole call; type and data
    // may be null for a bind or a propagation change.
    check(unsafe { libc::mount(source, target.as_ptr(), ptr::null(), flags, ptr::null()) })
        .map(drop)
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes integers only.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Is the process root?
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Blocks SIGINT and SIGTERM in the calling thread, and so in all threads it starts later.
pub(crate) fn block_interrupts() -> io::Result<()> {
    let set = interrupts();
    // SAFETY: `set` is an initialised set; the old set is not wanted.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits for SIGINT or SIGTERM, which must be blocked.
pub(crate) fn wait_interrupt() -> io::Result<i32> {
    let set = interrupts();
    let mut signal = 0;
    // SAFETY: both pointers are valid for the whole call.
    match unsafe { libc::sigwait(&raw const set, &raw mut signal) } {
        0 => Ok(signal),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn interrupts() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is a valid value, and sigemptyset initialises it anyway.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a valid set, the signal numbers are constants.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
    }
    set
}

/// Sets an integer option of a socket.
pub(crate) fn set_option(
    socket: &impl std::os::fd::AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option_value(socket, level, name, &value)
}

/// Sets an option of a socket to a plain C value.
fn set_option_value<T: Copy>(
    socket: &impl std::os::fd::AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// An integer option of a socket.
pub(crate) fn option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; the kernel writes at most that much.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// Bounds how long a socket blocks: `SO_RCVTIMEO` or `SO_SNDTIMEO`.
pub(crate) fn set_timeout(
    socket: &impl std::os::fd::AsFd,
    name: libc::c_int,
    timeout: Duration,
) -> io::Result<()> {
    let value = libc::timeval {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).map_err(io::Error::other)?,
        tv_usec: 0,
    };
    set_option_value(socket, libc::SOL_SOCKET, name, &value)
}

/// Gives a socket under `TCP_REPAIR` the options that a handshake would have agreed on.
pub(crate) fn set_repaired_options(
    socket: &OwnedFd,
    segment: u32,
    window_scale: u32,
) -> io::Result<()> {
    /// `struct tcp_repair_opt` of linux/tcp.h.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct RepairOption {
        code: u32,
        value: u32,
    }
    let options = [
        RepairOption {
            code: 2,
            value: segment,
        },
        // Both directions in one value.
        RepairOption {
            code: 3,
            value: window_scale | window_scale << 16,
        },
    ];
    set_option_value(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_REPAIR_OPTIONS,
        &options,
    )
}

/// Has a TCP socket use a congestion control; an error of kind `NotFound` if the kernel has none of this name.
pub(crate) fn set_congestion(socket: &impl AsFd, name: &str) -> io::Result<()> {
    // The size is `TCP_CA_NAME_MAX` of net/tcp.h.
    let mut value = [0u8; 16];
    if name.len() >= value.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    value[..name.len()].copy_from_slice(name.as_bytes());
    set_option_value(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION, &value)
}

/// Makes the next close of the socket a reset.
pub(crate) fn reset_on_close(socket: &TcpStream) -> io::Result<()> {
    set_linger(socket, Duration::ZERO)
}

/// Lets the next close of the socket last until the peer knows of it, or for `patience`.
pub(crate) fn wait_on_close(socket: &TcpStream, patience: Duration) -> io::Result<()> {
    set_linger(socket, patience)
}

fn set_linger(socket: &TcpStream, time: Duration) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: libc::c_int::try_from(time.as_secs()).map_err(io::Error::other)?,
    };
    set_option_value(socket, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

/// The kernel's view of a TCP connection.
pub(crate) fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is plain integers, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: pointer and length describe `info`; the kernel writes at most that much.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    })?;
    Ok(info)
}

/// A new socket, closed on exec.
pub(crate) fn socket(
    domain: libc::c_int,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: socket takes integers only.
    let descriptor = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// An address in the form the kernel wants.
struct SocketAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl SocketAddress {
    fn new<T: Copy>(value: T) -> Self {
        const { assert!(mem::size_of::<T>() <= mem::size_of::<libc::sockaddr_storage>()) };
        // SAFETY: sockaddr_storage is plain integers, for which all zeroes is a value.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        // SAFETY: storage is larger than T (asserted above) and aligned for every address type.
        unsafe { ptr::write((&raw mut storage).cast::<T>(), value) };
        Self {
            storage,
            length: mem::size_of::<T>() as libc::socklen_t,
        }
    }

    fn v4(address: std::net::SocketAddrV4) -> Self {
        Self::new(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(address.ip().octets()),
            },
            sin_zero: [0; 8],
        })
    }

    fn v6(address: std::net::SocketAddrV6) -> Self {
        Self::new(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: address.ip().octets(),
            },
            sin6_scope_id: address.scope_id(),
        })
    }

    fn ip(address: std::net::SocketAddr) -> Self {
        match address {
            std::net::SocketAddr::V4(address) => Self::v4(address),
            std::net::SocketAddr::V6(address) => Self::v6(address),
        }
    }
}

fn bind_address(socket: &OwnedFd, address: &SocketAddress) -> io::Result<()> {
    // SAFETY: pointer and length describe the address, which outlives the call.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address.storage).cast(),
            address.length,
        )
    })
    .map(drop)
}

/// Binds a socket to an IP address and port.
pub(crate) fn bind(socket: &OwnedFd, address: std::net::SocketAddr) -> io::Result<()> {
    bind_address(socket, &SocketAddress::ip(address))
}

/// Connects a socket to an IP address and port.
pub(crate) fn connect(socket: &impl AsFd, address: std::net::SocketAddr) -> io::Result<()> {
    let address = SocketAddress::ip(address);
    // SAFETY: pointer and length describe the address, which outlives the call.
    check(unsafe {
        libc::connect(
            socket.as_fd().as_raw_fd(),
            (&raw const address.storage).cast(),
            address.length,
        )
    })
    .map(drop)
}

/// Makes a bound socket a listener.
pub(crate) fn listen(socket: &OwnedFd, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: listen takes integers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// A packet socket that sends frames by an interface of the thread's namespace, and receives none.
pub(crate) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    // Protocol 0 receives nothing.
    let socket = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    let address = SocketAddress::new(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: interface_index(interface)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    });
    bind_address(&socket, &address)?;
    Ok(socket)
}

/// Sends one frame.
pub(crate) fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe the frame.
    let length = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if length < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Has netfilter forget all connections of the thread's namespace.
pub(crate) fn flush_conntrack() -> io::Result<()> {
    const NFNL_SUBSYS_CTNETLINK: u16 = 1;
    const IPCTNL_MSG_CT_DELETE: u16 = 2;
    /// `struct nlmsghdr` and `struct nfgenmsg`, and no attribute.
    const LENGTH: u32 = 20;
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)?;
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = [0; LENGTH as usize];
    message[..4].copy_from_slice(&LENGTH.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    send(&socket, &message)?;
    let mut answer = [0; 64];
    let length = File::from(socket).read(&mut answer)?;
    // The answer is an error, of which 0 means none.
    match answer[..length].get(16..20) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

pub(crate) fn interface_index(interface: &str) -> io::Result<libc::c_int> {
    let name = CString::new(interface).map_err(io::Error::other)?;
    // SAFETY: the name is a NUL-terminated string that lives for the whole call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => libc::c_int::try_from(index).map_err(io::Error::other),
    }
}

/// Waits until one of `events` (of poll) happens to one of the descriptors, or an error, or the time is over.
pub(crate) fn wait(
    descriptors: &[&impl AsFd],
    events: libc::c_short,
    timeout: Duration,
) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd {
            fd: descriptor.as_fd().as_raw_fd(),
            events,
            revents: 0,
        })
        .collect();
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: pointer and count describe the vector, the time outlives the call, and no mask is given.
    match check(unsafe {
        libc::ppoll(
            polled.as_mut_ptr(),
            polled.len() as libc::nfds_t,
            &raw const timeout,
            ptr::null(),
        )
    }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// A request about an interface, by its name.
fn interface_request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// An ethtool switch of an interface in the thread's namespace (`ETHTOOL_S…` of linux/ethtool.h).
pub(crate) fn ethtool_switch(interface: &str, command: u32, on: bool) -> io::Result<()> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut value = Value {
        command,
        data: u32::from(on),
    };
    let mut request = interface_request(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: the request and the value it points to live for the whole call and have the layout
    // SIOCETHTOOL wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) }).map(drop)
}

/// The part of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct __sk_buff` of linux/bpf.h as words, each of which is a field up to `tstamp`.
pub(crate) type SkBuff = [u32; 48];

/// `struct xdp_md` of linux/bpf.h.
pub(crate) type XdpMd = [u32; 6];

/// How [`test_run`] runs a program.
#[derive(Default)]
pub(crate) struct TestRunHow {
    /// How often, on the same packet.
    pub repeat: u32,
    /// Whether a device has computed the packet's sum (`CHECKSUM_COMPLETE`); the kernel then checks
    /// that it is right afterwards.
    pub summed: bool,
}

/// Runs a program on a packet with this context ([`SkBuff`] or [`XdpMd`]); answers its value and the length of `out` in use.
/// aya cannot set the flag.
pub(crate) fn test_run(
    program: impl AsFd,
    packet: &[u8],
    out: &mut [u8],
    context: &[u32],
    how: &TestRunHow,
) -> io::Result<(u32, usize)> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;
    let mut attributes = TestRun {
        program: program.as_fd().as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: how.repeat,
        flags: u32::from(how.summed) * BPF_F_TEST_SKB_CHECKSUM_COMPLETE,
        context_size_in: size_of_val(context) as u32,
        context_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attributes are those of the command and live for the whole call, like the buffers,
    // whose sizes they name.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attributes,
            mem::size_of::<TestRun>(),
        )
    };
    check(result as libc::c_int)?;
    Ok((attributes.value, attributes.data_size_out as usize))
}

/// Keeps the calling thread, and those that it starts, on these CPUs.
pub(crate) fn pin_to_cpus(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: all bits zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus {
        // SAFETY: the macro's function checks the number against the set's size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: the set outlives the call, and its size is the one given.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}
