//! Fields of a reply, checked and rendered once.

use crate::bytes::{TOKEN, all, is_control};
use crate::reply::{FieldError, is_owned, write_field_bytes};

/// Field lines that can stand in any reply: those of a stored one, or of one that is passed on.
/// Values may have bytes above 127, as those of upstreams do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldBlock(Vec<u8>);

impl FieldBlock {
    /// No fields, and room for some.
    #[must_use]
    pub fn new() -> FieldBlock {
        FieldBlock(Vec::with_capacity(512))
    }

    /// Adds a field.
    ///
    /// # Errors
    /// A field that cannot stand in a reply, as for
    /// [`ReplyContext::write_head`](crate::ReplyContext::write_head).
    pub fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), FieldError> {
        let fits = !name.is_empty()
            && all(name, TOKEN)
            && !value.iter().any(|&byte| is_control(byte))
            && !is_owned(name);
        if !fits {
            return Err(FieldError { name: String::from_utf8_lossy(name).into_owned() });
        }
        write_field_bytes(&mut self.0, name, value);
        Ok(())
    }

    /// Adds all fields of another block.
    pub fn append(&mut self, other: &FieldBlock) {
        self.0.extend_from_slice(&other.0);
    }

    /// The lines, each with its CRLF.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        // Neither names nor values have a CR, and no name has a colon.
        self.0.split(|&byte| byte == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r")?;
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], &line[colon + 2..]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_was_put_in_and_nothing_that_breaks_a_head() {
        let mut block = FieldBlock::new();
        block.push(b"A", b"b: c").unwrap();
        block.push(b"X-Empty", b"").unwrap();
        block.push(b"X-Latin", b"caf\xe9").unwrap();
        for (name, value) in
            [("", "a"), ("A B", "c"), ("A", "b\r\nC: d"), ("Connection", "close"), ("date", "x")]
        {
            assert!(block.push(name.as_bytes(), value.as_bytes()).is_err(), "{name}: {value}");
        }
        assert_eq!(block.bytes(), b"A: b: c\r\nX-Empty: \r\nX-Latin: caf\xe9\r\n");
        let fields: Vec<_> = block.iter().collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"A", b"b: c"), (b"X-Empty", b""), (b"X-Latin", b"caf\xe9")];
        assert_eq!(fields, expected);
    }
}
