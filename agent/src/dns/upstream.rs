//! Asks the name servers of this host what the cluster does not know. Questions and answers pass as they are.

use std::{
    fs,
    io::{self, Error, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::framing;
use crate::config::{NameServers, Transport};

/// How long one server may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Servers that are asked, one after the other.
const SERVERS_MAX: usize = 3;
/// The largest datagram.
const DATAGRAM: usize = 65_535;
/// Where this host's servers are.
const SYSTEM: &str = "/etc/resolv.conf";
/// Where they are if that is systemd-resolved, which may ask us in turn.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const RESOLVED_STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));

/// The servers to ask now, without those that we are ourselves.
pub fn servers(configured: &NameServers, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut servers = match configured {
        NameServers::These(servers) => servers.clone(),
        NameServers::System => {
            let servers = read(Path::new(SYSTEM));
            let is_stub = |server: &SocketAddr| server.ip() == RESOLVED_STUB;
            match read(Path::new(RESOLVED)) {
                others if servers.iter().all(is_stub) && !others.is_empty() => others,
                _ => servers,
            }
        }
    };
    servers.retain(|server| !own.contains(server));
    servers.truncate(SERVERS_MAX);
    servers
}

/// The name servers of a file; none if there is no file.
fn read(path: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then(|| words.next())?
        })
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// The answer to a question, of the first server that answers: over the transport that the question came by.
///
/// # Errors
/// None answers.
pub async fn ask(
    servers: &[SocketAddr],
    transport: Transport,
    question: &[u8],
) -> io::Result<Vec<u8>> {
    let mut last = Error::other("this host has no other name server");
    for server in servers {
        let asked = async {
            match transport {
                Transport::Udp => ask_udp(*server, question).await,
                Transport::Tcp => ask_tcp(*server, question).await,
            }
        };
        match timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => last = ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port by chance, and only this server's packets.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let len = socket.recv(&mut answer).await?;
        if is_answer(&answer[..len], question) {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    framing::write(&mut stream, question).await?;
    let answer = framing::read(&mut stream).await?;
    match is_answer(&answer, question) {
        true => Ok(answer),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// Whether it has the number of the question and is an answer.
fn is_answer(answer: &[u8], question: &[u8]) -> bool {
    answer.len() >= 12 && answer[..2] == question[..2] && answer[2] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_none_is_asked_in_a_circle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(
            &path,
            "# x\nsearch a\nnameserver 10.0.0.53\nnameserver fd00::53\nnameserver x\nnameserver\n",
        )
        .unwrap();
        let expected = ["10.0.0.53:53", "[fd00::53]:53"].map(|text| text.parse().unwrap());
        assert_eq!(read(&path), expected);
        assert_eq!(read(Path::new("/nowhere")), []);
        let own = expected[0];
        let these = NameServers::These(expected.into());
        assert_eq!(servers(&these, &[own]), expected[1..]);
    }
}
