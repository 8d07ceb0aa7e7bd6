//! DNS messages over TCP: two bytes of length before each (RFC 1035 4.2.2).

use std::io::{self, ErrorKind};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Reads the next message.
///
/// # Errors
/// The connection ends or breaks before.
pub async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message.
///
/// # Errors
/// It is longer than its length can tell, or the connection breaks.
pub async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
    stream
        .write_all(&[&len.to_be_bytes(), message].concat())
        .await
}
