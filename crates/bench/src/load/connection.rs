//! One connection: HTTP/1.1 without an HTTP library, one request at a time.
//!
//! It reads what this project's servers and `hyper` write: a head with `content-length`, then the
//! body. Anything else is an error. Bodies that nobody looks at are read and forgotten.

use bytes::Bytes;
use isthmus_protocol::signature::admin_path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{BenchError, Result, Tried};
use crate::load::{Prepared, Signer, Target};

/// Bytes of the buffer for answers, unless one that is kept is longer.
const INPUT_BYTES: usize = 256 * 1024;
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer's body.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longer bodies are sent on their own instead of being copied behind their head.
const COPY_BYTES_MAX: usize = 16 * 1024;

/// An answer whose head has been read, and its body as well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Status.
    pub(crate) status: u16,
    /// Length of the body.
    pub(crate) body_bytes: usize,
    head_bytes: usize,
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    signer: Signer,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Connection> {
        let address = &target.address;
        let stream = TcpStream::connect(address).await.tried(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).tried(|| "set up a connection".to_owned())?;
        Ok(Connection {
            stream,
            signer: Signer::new(&target.access, address),
            input: vec![0; INPUT_BYTES],
            output: Vec::with_capacity(COPY_BYTES_MAX + 1024),
        })
    }

    /// Sends a POST and reads its answer. The body is there afterwards if it is to be kept or is
    /// short.
    pub(crate) async fn exchange(
        &mut self,
        path: &str,
        prepared: &Prepared,
        keep: bool,
    ) -> Result<Answer> {
        self.send("POST", (path, path), prepared).await.tried(|| "send a request".to_owned())?;
        self.receive(keep).await
    }

    /// Sends a request to the administration port and reads its answer.
    pub(crate) async fn administer(
        &mut self,
        method: &str,
        target: &str,
        body: Bytes,
    ) -> Result<Answer> {
        let signed = admin_path(method, target);
        let prepared = Prepared::new(body);
        let sent = self.send(method, (target, &signed), &prepared).await;
        sent.tried(|| "send a request".to_owned())?;
        self.receive(true).await
    }

    async fn send(
        &mut self,
        method: &str,
        path: (&str, &str),
        prepared: &Prepared,
    ) -> std::io::Result<()> {
        let body = &prepared.body;
        self.output.clear();
        self.signer.put_head(method, path, &prepared.md5, body.len(), &mut self.output);
        if body.len() <= COPY_BYTES_MAX {
            self.output.extend_from_slice(body);
            return self.stream.write_all(&self.output).await;
        }
        self.stream.write_all(&self.output).await?;
        self.stream.write_all(body).await
    }

    async fn receive(&mut self, keep: bool) -> Result<Answer> {
        let mut filled = 0;
        let head_bytes = loop {
            if filled == HEAD_BYTES_MAX {
                return Err(BenchError::failed("the head of an answer is too long"));
            }
            filled += self.read_at(filled).await?;
            if let Some(end) = end_of_head(&self.input[..filled]) {
                break end;
            }
        };
        let (status, body_bytes) = read_head(&self.input[..head_bytes])
            .ok_or_else(|| BenchError::failed("the head of an answer is malformed"))?;
        let whole = head_bytes + body_bytes;
        if body_bytes > BODY_BYTES_MAX || filled > whole {
            return Err(BenchError::failed("the length of an answer is wrong"));
        }
        if keep && self.input.len() < whole {
            self.input.resize(whole, 0);
        }
        let fits = self.input.len() >= whole;
        while filled < whole {
            // A body that is not kept overwrites itself.
            let place = if fits { filled } else { head_bytes };
            filled += self.read_at(place).await?;
        }
        Ok(Answer { status, body_bytes, head_bytes })
    }

    async fn read_at(&mut self, place: usize) -> Result<usize> {
        let read = self.stream.read(&mut self.input[place..]).await;
        match read.tried(|| "read an answer".to_owned())? {
            0 => Err(BenchError::failed("the connection was closed")),
            read => Ok(read),
        }
    }

    /// The body of the last answer; of one that was not kept, what there is of it.
    pub(crate) fn body(&self, answer: Answer) -> &[u8] {
        let end = (answer.head_bytes + answer.body_bytes).min(self.input.len());
        &self.input[answer.head_bytes..end]
    }
}

fn end_of_head(input: &[u8]) -> Option<usize> {
    input.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4)
}

/// Status and length of the body.
fn read_head(head: &[u8]) -> Option<(u16, usize)> {
    const LENGTH: &[u8] = b"content-length:";
    let status = head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| {
        line.get(..LENGTH.len()).is_some_and(|name| name.eq_ignore_ascii_case(LENGTH))
    })?;
    let length = line.get(LENGTH.len()..)?.trim_ascii();
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<usize>().ok();
    Some((u16::try_from(number(status)?).ok()?, number(length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_wherever_the_length_stands() {
        let head = b"HTTP/1.1 200 OK\r\na: b\r\nContent-Length: 12\r\nc: d\r\n\r\nrest";
        let end = end_of_head(head).unwrap();
        assert_eq!(&head[end..], b"rest");
        assert_eq!(read_head(&head[..end]), Some((200, 12)));
        assert_eq!(read_head(b"HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(read_head(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n"), None);
        assert_eq!(end_of_head(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
