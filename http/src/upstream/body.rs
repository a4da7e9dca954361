//! Bodies of replies (RFC 9112 sections 6.3 and 7.1).

use super::{Fault, ReplyBodyKind};
use crate::framing::{BodyKind, Decoder, Piece};
use crate::limits::Limits;
use crate::reason::Reason;

/// Takes the framing off a reply's body, piece by piece. Holds no bytes.
#[derive(Clone, Copy, Debug)]
pub struct ReplyBody {
    decoder: Decoder,
    until_close: bool,
}

/// What was found in the bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyPiece {
    /// So many bytes of framing, then so many bytes of data: both were consumed.
    Data {
        /// Bytes of framing in front.
        skipped: usize,
        /// Bytes of data behind them.
        len: usize,
    },
    /// All bytes given were framing, or none were given; more must come.
    More,
    /// The body ends after so many bytes.
    End(usize),
}

impl ReplyBody {
    /// A body that comes so.
    #[must_use]
    pub fn new(kind: ReplyBodyKind) -> ReplyBody {
        let decoder = Decoder::new(match kind {
            ReplyBodyKind::None | ReplyBodyKind::UntilClose => BodyKind::None,
            ReplyBodyKind::Length(length) => BodyKind::Length(length),
            ReplyBodyKind::Chunked => BodyKind::Chunked,
        });
        ReplyBody { decoder, until_close: kind == ReplyBodyKind::UntilClose }
    }

    /// Whether nothing more belongs to the body.
    #[must_use]
    pub fn is_done(&self) -> bool {
        !self.until_close && self.decoder.is_done()
    }

    /// The bytes of data that are left, where the framing tells.
    #[must_use]
    pub fn length_left(&self) -> Option<u64> {
        if self.until_close { None } else { self.decoder.length_left() }
    }

    /// Reads on in `bytes`. Trailer fields are read for their syntax and dropped.
    ///
    /// # Errors
    /// Malformed chunks and trailers.
    pub fn decode(&mut self, bytes: &[u8], limits: &Limits) -> Result<ReplyPiece, Fault> {
        if self.until_close {
            return Ok(match bytes.len() {
                0 => ReplyPiece::More,
                len => ReplyPiece::Data { skipped: 0, len },
            });
        }
        match self.decoder.decode(bytes, limits) {
            Ok(Piece::Data { skipped, len }) => Ok(ReplyPiece::Data { skipped, len }),
            Ok(Piece::More) => Ok(ReplyPiece::More),
            Ok(Piece::End(at)) => Ok(ReplyPiece::End(at)),
            Err(Reason::Trailer) => Err(Fault::Trailer),
            Err(_) => Err(Fault::Chunk),
        }
    }

    /// The upstream ended the connection.
    ///
    /// # Errors
    /// If the body had more to come (RFC 9112 section 8).
    pub fn handle_eof(&mut self) -> Result<(), Fault> {
        if self.until_close {
            self.until_close = false;
        }
        if self.decoder.is_done() { Ok(()) } else { Err(Fault::Truncated) }
    }
}
