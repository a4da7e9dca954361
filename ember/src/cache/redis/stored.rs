//! Replies as bytes. Anything that is not exactly so is a miss: another version may have written
//! it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::reply::{Bytes, Reply};

/// What it begins with; the digit is the version.
const MAGIC: &[u8] = b"ember1";

/// The reply's bytes, with the time of day.
pub(super) fn write(reply: &Reply) -> Vec<u8> {
    let body: &[u8] = match &reply.body {
        Bytes::Static(bytes) => bytes,
        Bytes::Shared(bytes) => bytes,
    };
    let mut out = Vec::with_capacity(64 + reply.bytes());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&time_ms().to_le_bytes());
    out.extend_from_slice(&reply.status.to_le_bytes());
    out.extend_from_slice(&(reply.fields.len() as u32).to_le_bytes());
    for (name, value) in &reply.fields {
        for text in [name, value] {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.extend_from_slice(body);
    out
}

/// The reply and its age in milliseconds.
pub(super) fn read(bytes: &[u8]) -> Option<(Reply, u64)> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let stored_ms = u64::from_le_bytes(*take_array(&mut rest)?);
    let status = u16::from_le_bytes(*take_array(&mut rest)?);
    let count = u32::from_le_bytes(*take_array(&mut rest)?);
    let mut fields = Vec::new();
    for _ in 0..count {
        let (name, value) = (take_text(&mut rest)?, take_text(&mut rest)?);
        fields.push((name.into(), value.into()));
    }
    let reply = Reply { status, fields, body: Bytes::Shared(rest.into()) };
    Some((reply, time_ms().saturating_sub(stored_ms)))
}

/// Clocks of machines differ by less than what an age is told in.
fn time_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

fn take_array<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (array, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(array)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let len = u32::from_le_bytes(*take_array(rest)?) as usize;
    let (text, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_come_back_and_anything_else_is_a_miss() {
        let fields = vec![("A".into(), "b".into()), ("Content-Type".into(), "text/plain".into())];
        let reply = Reply { status: 203, fields, body: Bytes::Shared((*b"body").into()) };
        let bytes = write(&reply);
        let (again, age_ms) = read(&bytes).unwrap();
        assert_eq!(again, reply);
        assert!(age_ms < 60_000);
        for end in 0..bytes.len() - b"body".len() {
            assert!(read(&bytes[..end]).is_none(), "cut at {end}");
        }
        let mut other = bytes;
        other[5] = b'2';
        assert!(read(&other).is_none());
    }
}
