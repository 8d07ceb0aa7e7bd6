//! The sockets on which programs listen.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The TCP sockets that listen in the network namespace of the calling thread.
pub fn listening() -> Vec<SocketAddr> {
    let files = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let read = files.map(|path| fs::read_to_string(path).unwrap_or_default());
    read.iter().flat_map(|text| sockets(text)).collect()
}

fn sockets(text: &str) -> impl Iterator<Item = SocketAddr> {
    /// The state of a socket that listens.
    const LISTEN: &str = "0A";
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (at, port) = words.next()?.split_once(':')?;
        let state = words.nth(1)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == LISTEN).then_some(SocketAddr::new(address(at)?, port))
    })
}

/// An address as its words of 32 bits, each written as a number of this machine.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(text.get(8 * at..8 * at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let words = [word(0)?, word(1)?, word(2)?, word(3)?];
    let bytes = <[u8; 16]>::try_from(words.as_flattened()).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn listening_sockets_are_read() {
        let v4 = "  sl  local_address rem_address   st tx_queue\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n\
             1: 00000000:1F91 00000000:0000 0A 00000000:00000000\n\
             2: 0100000A:1F92 0200000A:0050 01 00000000:00000000\n";
        let v6 = "  sl  local_address rem_address   st tx_queue\n\
             0: 00000000000000000000000000000000:17EB 00000000000000000000000000000000:0000 0A 0\n\
             1: 00000000000000000000000001000000:17EC 00000000000000000000000000000000:0000 0A 0\n\
             nonsense\n";
        if cfg!(target_endian = "little") {
            let texts = |text| {
                let all = sockets(text).map(|socket| socket.to_string());
                all.collect::<Vec<_>>()
            };
            assert_eq!(texts(v4), ["127.0.0.1:8080", "0.0.0.0:8081"]);
            assert_eq!(texts(v6), ["[::]:6123", "[::1]:6124"]);
        }
        let own = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
        let found = listening();
        for own in own {
            assert!(found.contains(&own.local_addr().unwrap()));
        }
    }
}
