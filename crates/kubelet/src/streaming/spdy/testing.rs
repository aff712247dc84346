//! A SPDY client for tests, of this module's own frames.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

use super::frame::{self, Decoder, Encoder, Incoming};

pub(in super::super) struct Client<T> {
    reader: ReadHalf<T>,
    writer: WriteHalf<T>,
    encoder: Encoder,
    decoder: Decoder,
    next: u32,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Event {
    Reply(u32),
    Reset(u32),
    Ping(u32),
    GoAway,
}

#[derive(Default)]
pub(in super::super) struct Seen {
    pub(in super::super) events: Vec<Event>,
    streams: HashMap<u32, (Vec<u8>, bool)>,
}

impl Seen {
    /// What came on a stream, and whether it has ended.
    pub(in super::super) fn data(&self, stream: u32) -> (Vec<u8>, bool) {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(in super::super) fn new(transport: T) -> Client<T> {
        let (reader, writer) = tokio::io::split(transport);
        Client { reader, writer, encoder: Encoder::new().unwrap(), decoder: Decoder::new(), next: 1, seen: Seen::default() }
    }

    pub(in super::super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.writer.write_all(&self.encoder.open(stream, headers, false).unwrap()).await.unwrap();
        stream
    }

    pub(in super::super) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        self.writer.write_all(&frame::data_head(stream, bytes.len(), fin)).await.unwrap();
        self.writer.write_all(bytes).await.unwrap();
    }

    pub(in super::super) async fn ping(&mut self, id: u32) {
        self.writer.write_all(&frame::ping(id)).await.unwrap();
    }

    pub(in super::super) async fn until_end(&mut self) -> &Seen {
        self.until(|_| false).await
    }

    /// Reads until `enough`, or the end of the connection.
    pub(in super::super) async fn until(&mut self, enough: impl Fn(&Seen) -> bool) -> &Seen {
        while !enough(&self.seen) {
            let Some(incoming) = self.decoder.next(&mut self.reader).await.unwrap() else { break };
            match incoming {
                Incoming::Reply { stream } => self.seen.events.push(Event::Reply(stream)),
                Incoming::Reset { stream } => self.seen.events.push(Event::Reset(stream)),
                Incoming::Ping { id } => self.seen.events.push(Event::Ping(id)),
                Incoming::GoAway => self.seen.events.push(Event::GoAway),
                Incoming::Data { stream, length, fin } => {
                    let mut bytes = vec![0; length as usize];
                    self.reader.read_exact(&mut bytes).await.unwrap();
                    let known = self.seen.streams.entry(stream).or_default();
                    assert!(!known.1, "nothing comes after the end of a stream");
                    known.0.extend(bytes);
                    known.1 |= fin;
                }
                other => panic!("a server does not send {other:?}"),
            }
        }
        &self.seen
    }
}
