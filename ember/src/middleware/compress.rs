//! Content codings of replies.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ember_http::coding::Coding;
use ember_uring::Piece;

use crate::body::{Body, BodyStream};
use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::Response;

/// Compresses replies that are worth it, as the client prefers: zstd, brotli or gzip.
///
/// What streams is compressed piece by piece, and each piece can be read when it arrives. Left as
/// they are: replies that have a `Content-Encoding` or a `Content-Range` or say `no-transform`,
/// short ones, and media types that are compressed by nature.
///
/// ```
/// use ember::middleware::Compress;
/// use ember::testing::Client;
/// use ember::{App, Request};
///
/// let app = App::new()
///     .get("/", async |_: &Request| "a long text ".repeat(1000))
///     .wrap_all(Compress::new());
/// let client = Client::new(app);
/// let reply = client.send("GET", "/", &[("Accept-Encoding", "gzip, br;q=0.5")], "");
/// assert_eq!(reply.header("content-encoding"), Some("gzip"));
/// assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
/// assert!(reply.body().len() < 500);
/// assert_eq!(client.get("/").text().len(), 12_000);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Compress {
    bytes_min: u64,
}

/// On offer, the best first.
const OFFERED: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW_BITS: u32 = 20;
const BROTLI_BUFFER_BYTES: usize = 16 << 10;
const GZIP_LEVEL: u32 = 5;

impl Compress {
    /// Replies of 1 KiB and more.
    #[must_use]
    pub fn new() -> Compress {
        Compress { bytes_min: 1 << 10 }
    }

    /// Replies of this many bytes and more; streams of unknown length always are.
    #[must_use]
    pub fn min_size(mut self, bytes: u64) -> Compress {
        self.bytes_min = bytes;
        self
    }

    fn is_worth_it(&self, response: &Response) -> bool {
        let has = |name: &str| response.header_value(name).is_some();
        let fixed = response.header_value("cache-control").is_some_and(|value| {
            value.split(',').any(|part| part.trim().eq_ignore_ascii_case("no-transform"))
        });
        let body = response.body_ref();
        let is_body = !matches!(body, Body::Upgrade(_)) && body.len().is_none_or(|len| len > 0);
        is_body
            && body.len().is_none_or(|len| len >= self.bytes_min)
            && !has("content-encoding")
            && !has("content-range")
            && !fixed
            && response.header_value("content-type").is_some_and(is_compressible)
    }
}

impl Default for Compress {
    fn default() -> Self {
        Compress::new()
    }
}

impl Middleware for Compress {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let coding = request.head().negotiate(&OFFERED).map(|at| OFFERED[at]);
        let response = next.run(request).await;
        if !self.is_worth_it(&response) {
            return response;
        }
        let response = response.vary("Accept-Encoding");
        match coding {
            Some(coding) => encode(response, coding),
            None => response,
        }
    }
}

fn encode(mut response: Response, coding: Coding) -> Response {
    // Equal for the representation only (RFC 9110 section 8.8.3): another coding, another tag.
    for (name, value) in response.headers_mut() {
        if name.eq_ignore_ascii_case("etag") && !value.starts_with("W/") {
            *value = format!("W/{value}").into();
        }
    }
    let response_body = response.take_body();
    let body = match response_body {
        Body::Stream(stream) => Encoder::new(coding)
            .map(|encoder| Body::stream(Encoded { stream, encoder: Some(encoder) })),
        Body::Bytes(bytes) => whole(coding, &bytes),
        Body::Static(bytes) => whole(coding, bytes),
        Body::Piece(piece) => match piece.bytes() {
            Some(bytes) => whole(coding, bytes),
            // Part of a file, which nobody looks at.
            None => return response.with_body(Body::Piece(piece)),
        },
        other @ (Body::Empty | Body::Upgrade(_)) => return response.with_body(other),
    };
    match body {
        Ok(body) => response.with_body(body).set_header("Content-Encoding", coding.as_str()),
        Err(error) => crate::response::IntoResponse::into_response(crate::Error::from(error)),
    }
}

fn whole(coding: Coding, bytes: &[u8]) -> io::Result<Body> {
    let mut encoder = Encoder::new(coding)?;
    encoder.writer().write_all(bytes)?;
    Ok(Body::Bytes(encoder.finish()?))
}

/// Text and what is like it.
fn is_compressible(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media.starts_with("text/")
        || media.ends_with("+json")
        || media.ends_with("+xml")
        || matches!(
            media.as_str(),
            "application/json"
                | "application/javascript"
                | "application/xml"
                | "application/wasm"
                | "application/x-ndjson"
                | "application/problem+json"
                | "application/x-www-form-urlencoded"
                | "font/ttf"
                | "font/otf"
        )
}

enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Encoder> {
        Ok(match coding {
            Coding::Zstd => {
                Encoder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?)
            }
            Coding::Brotli => Encoder::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER_BYTES,
                BROTLI_QUALITY,
                BROTLI_WINDOW_BITS,
            ))),
            Coding::Gzip | Coding::Identity => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
        })
    }

    fn writer(&mut self) -> &mut dyn io::Write {
        match self {
            Encoder::Zstd(encoder) => encoder,
            Encoder::Brotli(encoder) => &mut **encoder,
            Encoder::Gzip(encoder) => encoder,
        }
    }

    /// What has come out so far.
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
        })
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Gzip(encoder) => encoder.finish(),
        }
    }
}

/// A stream whose pieces are compressed as they come.
struct Encoded {
    stream: Pin<Box<dyn BodyStream>>,
    /// None behind the end.
    encoder: Option<Encoder>,
}

impl BodyStream for Encoded {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        loop {
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(None) };
            let _ = encoder;
            let next = std::task::ready!(self.stream.as_mut().poll_next(cx));
            let Some(mut encoder) = self.encoder.take() else { return Poll::Ready(None) };
            let piece = match next {
                None => return Poll::Ready(Some(encoder.finish().map(Piece::Owned))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(piece)) => piece,
            };
            let Some(bytes) = piece.bytes() else {
                let why = "a part of a file cannot be compressed";
                return Poll::Ready(Some(Err(io::Error::other(why))));
            };
            // Flushed: whoever waits for this piece can read it, an event for one.
            let written = encoder.writer().write_all(bytes);
            if let Err(error) = written.and_then(|()| encoder.writer().flush()) {
                return Poll::Ready(Some(Err(error)));
            }
            let out = encoder.take();
            self.encoder = Some(encoder);
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Piece::Owned(out))));
            }
        }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::App;
    use crate::testing::Client;

    struct Numbers(u32);

    impl BodyStream for Numbers {
        fn poll_next(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Piece>>> {
            self.0 += 1;
            let piece = || Ok(Piece::Owned(format!("{}\n", self.0).into_bytes()));
            Poll::Ready((self.0 <= 500).then(piece))
        }
    }

    fn decoded(coding: &str, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            "zstd" => out = zstd::stream::decode_all(bytes).unwrap(),
            "br" => {
                brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).unwrap();
            }
            _ => {
                flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
            }
        }
        out
    }

    #[test]
    fn every_coding_decodes_to_what_was_said() {
        let text = "0123456789".repeat(500);
        let all: String = (1..=500).map(|n| format!("{n}\n")).collect();
        let said = text.clone();
        let stream = |_: &Request| {
            let response = Response::new(200).header("Content-Type", "text/plain");
            response.with_body(Body::stream(Numbers(0)))
        };
        let app = App::new()
            .get("/whole", move |_: &Request| said.clone())
            .get("/stream", stream)
            .wrap_all(Compress::new());
        let client = Client::new(app);
        for coding in ["zstd", "br", "gzip"] {
            for (path, expected) in [("/whole", &text), ("/stream", &all)] {
                let reply = client.send("GET", path, &[("Accept-Encoding", coding)], "");
                assert_eq!(reply.header("content-encoding"), Some(coding), "{path}");
                assert_eq!(decoded(coding, reply.body()), expected.as_bytes(), "{path} {coding}");
            }
        }
    }

    #[test]
    fn what_is_not_worth_it_is_left_as_it_is() {
        let reply = |kind: &'static str, len: usize| {
            move |_: &Request| Response::new(200).header("Content-Type", kind).body(vec![b'x'; len])
        };
        let app = App::new()
            .get("/short", reply("text/plain", 1023))
            .get("/image", reply("image/png", 5000))
            .get("/coded", |_: &Request| {
                Response::text(200, "y".repeat(5000)).header("Content-Encoding", "br")
            })
            .get("/fixed", |_: &Request| {
                Response::text(200, "y".repeat(5000)).header("Cache-Control", "no-transform")
            })
            .wrap_all(Compress::new());
        let client = Client::new(app);
        for path in ["/short", "/image", "/coded", "/fixed"] {
            let reply = client.send("GET", path, &[("Accept-Encoding", "gzip")], "");
            assert_ne!(reply.header("content-encoding"), Some("gzip"), "{path}");
            assert!(reply.body().len() >= 1023, "{path}");
        }
    }
}
