//! Large replies, sent window by window as the client takes them.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ember::BodyStream;
use ember_uring::Piece;

use super::content::{Content, Need, read_part};
use super::store::Cached;

/// Bytes that go out at a time; what is no larger goes out in one piece.
pub(super) const WINDOW: u64 = 1 << 20;

/// Part of a reply's body.
#[derive(Debug)]
pub(super) enum Segment {
    /// What frames the parts of a multipart body.
    Bytes(Vec<u8>),
    /// Of the file.
    File(Range<u64>),
}

/// A body out of parts of one form of a file.
pub(super) struct FileBody {
    cached: Rc<Cached>,
    form: usize,
    segments: VecDeque<Segment>,
    len: u64,
    /// The next piece of the file, while it is being read in, and where it ends.
    reading: Option<Reading>,
}

type Reading = Pin<Box<dyn Future<Output = io::Result<(Piece, u64)>>>>;

impl FileBody {
    pub(super) fn new(cached: &Rc<Cached>, form: usize, segments: Vec<Segment>) -> FileBody {
        let len = segments.iter().map(Segment::len).sum();
        FileBody { cached: Rc::clone(cached), form, segments: segments.into(), len, reading: None }
    }

    fn poll_file(&mut self, range: Range<u64>, cx: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        let form = self.cached.entry.form(self.form);
        let wanted = range.start..range.end.min(range.start + WINDOW);
        let (piece, end) = match (&mut self.reading, &form.content) {
            (Some(reading), _) => {
                let read = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                read?
            }
            (None, Content::Mapped(blocks)) if matches!(blocks.need(&wanted), Need::Nothing) => {
                // The mapping stays when the file shrinks, and zeroes would fill its last page.
                if !form.reaches(wanted.end) {
                    return Poll::Ready(Err(shrunk()));
                }
                if let Some(next) = blocks.need_after(wanted.end).filter(|_| wanted.end < range.end)
                {
                    blocks.warm_meanwhile(next);
                }
                (blocks.piece(&wanted), wanted.end)
            }
            (None, _) => {
                let reading = read(Rc::clone(&self.cached), self.form, wanted);
                self.reading = Some(Box::pin(reading));
                return self.poll_file(range, cx);
            }
        };
        match self.segments.front_mut() {
            Some(Segment::File(left)) if end < left.end => left.start = end,
            _ => drop(self.segments.pop_front()),
        }
        Poll::Ready(Ok(piece))
    }
}

impl BodyStream for FileBody {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        let piece = match self.segments.front_mut() {
            None => return Poll::Ready(None),
            Some(Segment::Bytes(bytes)) => {
                let bytes = std::mem::take(bytes);
                self.segments.pop_front();
                Ok(Piece::Owned(bytes))
            }
            Some(Segment::File(range)) => {
                let range = range.clone();
                ready!(self.poll_file(range, cx))
            }
        };
        Poll::Ready(Some(piece))
    }

    fn length(&self) -> Option<u64> {
        Some(self.len)
    }
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::File(range) => range.end - range.start,
        }
    }
}

/// Has a helper read in what is wanted, and gives the piece to send.
async fn read(cached: Rc<Cached>, form: usize, wanted: Range<u64>) -> io::Result<(Piece, u64)> {
    let form = cached.entry.form(form);
    match &form.content {
        Content::Mapped(blocks) => {
            if let Need::Blocks(cold) = blocks.need(&wanted) {
                blocks.warm(cold).await?;
            }
            if form.reaches(wanted.end) {
                Ok((blocks.piece(&wanted), wanted.end))
            } else {
                Err(shrunk())
            }
        }
        Content::Unmapped(file) => {
            let bytes = read_part(file, &wanted).await?;
            let end = wanted.start + bytes.len() as u64;
            Ok((Piece::Owned(bytes), end))
        }
        Content::Small(bytes) => {
            let part = bytes[wanted.start as usize..wanted.end as usize].to_vec();
            Ok((Piece::Owned(part), wanted.end))
        }
    }
}

fn shrunk() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")
}
