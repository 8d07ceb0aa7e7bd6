//! Real servers, of the distribution: nginx, dnsmasq, iperf3; and two of our own.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    cleanup, namespace::Namespace, process::Process, random::Random, scratch::Scratch, socket,
};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(20);
/// Bytes of the large file.
const BIG: usize = 3 << 20;

/// nginx. It serves `/who` (who is asked by whom: `<own address> <own port> <client's address>`), `/port` (the
/// client's port as it is seen here), `/small`, `/big`, and takes files under `/up/`.
#[derive(Debug)]
pub struct Web {
    directory: PathBuf,
    big: Vec<u8>,
    _process: Process,
}

impl Web {
    /// Starts it on some sockets of a namespace.
    ///
    /// # Errors
    /// nginx does not start.
    pub fn start(namespace: &Namespace, scratch: &Scratch, listen: &[SocketAddr]) -> Result<Self> {
        let directory = scratch.path().join(cleanup::unique_name("web"));
        for part in ["files", "up", "temporary"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let mut big = vec![0; BIG];
        Random::new(BIG as u64).fill(&mut big);
        fs::write(directory.join("files/big"), &big).context("write the large file")?;
        fs::write(directory.join("files/small"), "small\n").context("write the small file")?;
        let configuration = directory.join("nginx.conf");
        fs::write(
            &configuration,
            Self::configuration(&directory.display().to_string(), listen),
        )
        .context("write nginx.conf")?;
        let mut command = namespace.command("nginx".as_ref(), &[])?;
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(&directory)
            .arg("-c")
            .arg(configuration);
        let process = Process::spawn("nginx", command, &directory)?;
        process.wait_line(0, &["using the"], START)?;
        Ok(Self {
            directory,
            big,
            _process: process,
        })
    }

    fn configuration(directory: &str, listen: &[SocketAddr]) -> String {
        let listen: String = listen
            .iter()
            .map(|address| format!("listen {address};\n"))
            .collect();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {directory}/temporary;\n"))
            .concat();
        format!(
            r#"daemon off;
master_process off;
pid {directory}/pid;
error_log stderr notice;
events {{}}
http {{
{temporary}access_log off;
client_max_body_size 0;
keepalive_requests 100000;
server {{
{listen}root {directory}/files;
location = /who {{ return 200 "$server_addr $server_port $remote_addr\n"; }}
location = /port {{ return 200 "$remote_port\n"; }}
location /up/ {{ root {directory}; dav_methods PUT; }}
}}
}}
"#
        )
    }

    /// What is in `/big`.
    pub fn big(&self) -> &[u8] {
        &self.big
    }

    /// A file that was sent, by its path; it is gone then.
    ///
    /// # Errors
    /// There is none.
    pub fn received(&self, path: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(path.trim_start_matches('/'));
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(bytes)
    }
}

/// dnsmasq, which knows `node.test` (an address of each family) and `long.test` (about 1100 bytes of text).
#[derive(Debug)]
pub struct Dns {
    _process: Process,
}

impl Dns {
    /// Starts it on some addresses of a namespace, with the same port for all.
    ///
    /// # Errors
    /// dnsmasq does not start.
    pub fn start(namespace: &Namespace, scratch: &Scratch, listen: &[SocketAddr]) -> Result<Self> {
        let port = listen.first().context("nothing to listen on")?.port();
        let text = vec!["t".repeat(220); 5].join(",");
        let mut command = namespace.command("dnsmasq".as_ref(), &[])?;
        command
            .args([
                "--keep-in-foreground",
                "--log-facility=-",
                "--conf-file=/dev/null",
            ])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--user=root",
                "--pid-file",
                "--bind-interfaces",
            ])
            .args([
                "--host-record=node.test,192.0.2.7,2001:db8::7",
                "--edns-packet-max=4096",
            ])
            .arg(format!("--txt-record=long.test,{text}"))
            .arg(format!("--port={port}"))
            .args(
                listen
                    .iter()
                    .map(|address| format!("--listen-address={}", address.ip())),
            );
        let process = Process::spawn("dnsmasq", command, scratch.path())?;
        process.wait_line(0, &["started, version"], START)?;
        Ok(Self { _process: process })
    }
}

/// iperf3, which measures with one client at a time.
#[derive(Debug)]
pub struct Iperf {
    _process: Process,
}

impl Iperf {
    /// Starts it.
    ///
    /// # Errors
    /// iperf3 does not start.
    pub fn start(namespace: &Namespace, scratch: &Scratch, listen: SocketAddr) -> Result<Self> {
        let mut command: Command = namespace.command("iperf3".as_ref(), &[])?;
        command
            .args([
                "--server",
                "--forceflush",
                "--bind",
                &listen.ip().to_string(),
            ])
            .args(["--port", &listen.port().to_string()]);
        let process = Process::spawn("iperf3", command, scratch.path())?;
        process.wait_line(0, &["Server listening"], START)?;
        Ok(Self { _process: process })
    }
}

/// A TCP listener in a namespace, for tests that want the server's socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// The address is not there or taken.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .run(|| socket::listen(address))?
            .with_context(|| format!("listen on {address}"))?;
        Ok(Self { listener })
    }

    /// The next connection and its client.
    ///
    /// # Errors
    /// None comes within the deadline.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        self.listener.accept().context("accept")
    }
}

/// Sends every datagram back.
#[derive(Debug)]
pub struct Echo {
    socket: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    ///
    /// # Errors
    /// The address is not there or taken.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = namespace
            .run(|| UdpSocket::bind(address))?
            .with_context(|| format!("bind {address}"))?;
        let own = socket.try_clone().context("share the socket")?;
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            // A datagram from itself is the end; errors are about clients that are gone.
            loop {
                match own.recv_from(&mut buffer) {
                    Ok((_, from)) if from == address => return,
                    Ok((length, from)) => drop(own.send_to(&buffer[..length], from)),
                    Err(_) => {}
                }
            }
        });
        Ok(Self {
            socket,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let told = self
            .socket
            .local_addr()
            .and_then(|own| self.socket.send_to(&[], own));
        if told.is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
