//! Bodies in content codings, made once when a config is read.

use std::io::{self, Write as _};

use super::model::Encoding;

/// Above this the best compression takes seconds, and a quicker one is asked for.
const SMALL: usize = 1 << 20;

/// The body in this coding.
///
/// # Errors
/// When there is no memory for it.
pub(crate) fn encode(encoding: Encoding, body: &[u8]) -> io::Result<Vec<u8>> {
    let small = body.len() <= SMALL;
    match encoding {
        Encoding::Zstd => {
            let level = if small { 19 } else { 9 };
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), level)?;
            // Browsers refuse windows above 8 MiB (RFC 9659).
            encoder.window_log(23)?;
            encoder.include_contentsize(true)?;
            encoder.set_pledged_src_size(Some(body.len() as u64))?;
            encoder.write_all(body)?;
            encoder.finish()
        }
        Encoding::Br => {
            let quality = if small { 11 } else { 6 };
            let params = brotli::enc::BrotliEncoderParams { quality, ..Default::default() };
            let mut coded = Vec::new();
            brotli::BrotliCompress(&mut &*body, &mut coded, &params)?;
            Ok(coded)
        }
        Encoding::Gzip => {
            let level = flate2::Compression::best();
            // Without a name or a time, so that the same body gives the same bytes.
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body)?;
            encoder.finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn every_coding_gives_the_body_back() {
        for body in [&b""[..], b"x", &b"one and the same ".repeat(5_000), &vec![7; SMALL + 1]] {
            let zstd = encode(Encoding::Zstd, body).unwrap();
            assert_eq!(zstd::stream::decode_all(&zstd[..]).unwrap(), body);
            let mut plain = Vec::new();
            let br = encode(Encoding::Br, body).unwrap();
            brotli::BrotliDecompress(&mut &br[..], &mut plain).unwrap();
            assert_eq!(plain, body);
            let gzip = encode(Encoding::Gzip, body).unwrap();
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut plain).unwrap();
            assert_eq!(plain, body);
            assert_eq!(gzip, encode(Encoding::Gzip, body).unwrap(), "the same bytes each time");
        }
    }
}
