//! The one codec of `user_data`: operation, generation (24 bits) and slot.

use crate::{Op, Sock};

/// Generations count modulo this.
pub(super) const GENERATIONS: u32 = 1 << 24;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) op: Op,
    /// The socket's generation; for [`Op::SendZc`] the index of the send's own record, and zero
    /// where there is no socket.
    pub(super) generation: u32,
    /// The socket's slot, or the listener's number.
    pub(super) slot: u32,
}

impl Token {
    #[inline]
    pub(super) fn of(op: Op, sock: Sock) -> u64 {
        Token { op, generation: sock.generation, slot: sock.slot }.encode()
    }

    #[inline]
    pub(super) fn encode(self) -> u64 {
        debug_assert!(self.generation < GENERATIONS);
        u64::from(self.op as u8) << 56 | u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    #[inline]
    pub(super) fn decode(user_data: u64) -> Token {
        Token {
            op: Op::ALL[(user_data >> 56) as usize],
            generation: (user_data >> 32) as u32 % GENERATIONS,
            slot: user_data as u32,
        }
    }

    #[inline]
    pub(super) fn sock(self) -> Sock {
        Sock { slot: self.slot, generation: self.generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_the_way_through_the_kernel() {
        for op in Op::ALL {
            for generation in [0, 1, 0x00ab_cdef, GENERATIONS - 1] {
                for slot in [0, 1, 65_535, u32::MAX] {
                    let token = Token { op, generation, slot };
                    assert_eq!(Token::decode(token.encode()), token);
                }
            }
        }
    }

    #[test]
    fn operations_are_numbered_in_order() {
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number);
        }
    }
}
