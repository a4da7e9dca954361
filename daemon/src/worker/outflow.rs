//! Whether the replies of a connection get out.
//!
//! A prepared reply is a silent send: its success is reported by the receive linked behind it, so
//! that a peer which does not read and one which has nothing to ask look the same. That costs
//! nothing per request; when a time limit has come up, and only then, the kernel is asked how much
//! the peer has taken ([`ember_uring::Driver::delivery`]).

use ember_http::{Limits, Pace, PaceLimits};
use ember_uring::Delivery;

/// How often a reply that is late is looked at within the time in which it must make progress.
const LOOKS: u32 = 4;

/// The replies of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outflow {
    /// Bytes of all replies, modulo 2^32, and as many before the last one. They differ while a
    /// reply may be on its way.
    queued: u32,
    before: u32,
    began_ms: u32,
    late: Option<Box<Late>>,
}

/// A reply that was not out when its time was over.
#[derive(Debug)]
struct Late {
    pace: Pace,
    last: Delivery,
}

/// What has come of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer has all of it.
    Out {
        /// It was late, and made progress.
        late: bool,
    },
    /// It makes progress; look again after so many milliseconds.
    Going(u32),
    /// It makes none, or less than the lowest rate.
    Stalled,
}

impl Outflow {
    /// A reply of so many bytes goes to the driver; those before it have gone out.
    #[inline]
    pub(crate) fn begin(&mut self, bytes: usize, now_ms: u64) {
        self.before = self.queued;
        self.queued = self.queued.wrapping_add(bytes as u32);
        self.began_ms = now_ms as u32;
        self.late = None;
    }

    /// Everything is known to have gone out.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.before = self.queued;
        self.late = None;
    }

    /// Whether a reply may be on its way.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.before != self.queued
    }

    /// Judges the last reply by what the kernel says of the socket.
    pub(crate) fn judge(&mut self, told: Delivery, limits: &Limits, now_ms: u64) -> Verdict {
        if told.pending == 0 {
            let late = self.late.is_some();
            self.end();
            return Verdict::Out { late };
        }
        let late = self.late.get_or_insert_with(|| {
            // What the peer had taken when this reply began is not known; no more than was sent.
            let last = Delivery { pending: told.pending, taken: Some(self.before) };
            Box::new(Late { pace: Pace::new(u64::from(self.began_ms)), last })
        });
        let progress = match (told.taken, late.last.taken) {
            // What came before this reply pays for nothing: a difference below zero.
            (Some(taken), Some(before)) => taken.wrapping_sub(before).cast_signed().max(0),
            // Of a unix socket only the buffer's level is known, and a change in it is progress.
            _ => i32::from(told.pending != late.last.pending),
        };
        if progress > 0 {
            late.pace.progress(progress.cast_unsigned() as usize, now_ms);
            late.last = told;
        } else if told.taken.is_none() {
            late.last = told;
        }
        let rate_min = if told.taken.is_some() { limits.write_rate_min } else { 0 };
        let (stall_ms_max, grace_ms) = (limits.write_ms_max, limits.rate_grace_ms);
        match late.pace.time_left_ms(&PaceLimits { stall_ms_max, rate_min, grace_ms }, now_ms) {
            0 => Verdict::Stalled,
            left => Verdict::Going(left.min(stall_ms_max / LOOKS).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> Limits = || Limits {
        write_ms_max: 1_000,
        write_rate_min: 100,
        rate_grace_ms: 5_000,
        ..Limits::default()
    };

    fn tcp(pending: u32, taken: u32) -> Delivery {
        Delivery { pending, taken: Some(taken) }
    }

    #[test]
    fn a_reply_that_is_out_is_out() {
        let mut outflow = Outflow::default();
        assert!(!outflow.is_open());
        outflow.begin(500, 0);
        assert!(outflow.is_open());
        assert_eq!(outflow.judge(tcp(0, 500), &LIMITS(), 1_000), Verdict::Out { late: false });
        assert!(!outflow.is_open());
    }

    #[test]
    fn what_was_taken_of_earlier_replies_is_no_progress_of_this_one() {
        let mut outflow = Outflow::default();
        outflow.begin(500, 0);
        outflow.begin(1_000_000, 100);
        assert_eq!(outflow.judge(tcp(1_000_000, 400), &LIMITS(), 1_100), Verdict::Stalled);
        let mut outflow = Outflow::default();
        outflow.begin(500, 0);
        outflow.begin(1_000_000, 100);
        assert_eq!(outflow.judge(tcp(900_000, 501), &LIMITS(), 1_100), Verdict::Going(250));
        assert_eq!(outflow.judge(tcp(0, 1_000_500), &LIMITS(), 1_300), Verdict::Out { late: true });
    }

    #[test]
    fn a_reader_who_stops_or_drips_is_found_out() {
        let mut outflow = Outflow::default();
        outflow.begin(1 << 20, 0);
        let mut now = 1_000;
        // A kilobyte in each look goes on for ever.
        for taken in 1..100 {
            let told = tcp(100_000, taken * 1_000);
            assert_eq!(outflow.judge(told, &LIMITS(), now), Verdict::Going(250));
            now += 250;
        }
        // The last progress was at `now - 250`.
        assert_eq!(outflow.judge(tcp(100_000, 99_000), &LIMITS(), now), Verdict::Going(250));
        assert_eq!(outflow.judge(tcp(100_000, 99_000), &LIMITS(), now + 750), Verdict::Stalled);

        let mut outflow = Outflow::default();
        outflow.begin(1 << 20, 0);
        let (mut now, mut taken) = (1_000, 10);
        while outflow.judge(tcp(100_000, taken), &LIMITS(), now) != Verdict::Stalled {
            now += 250;
            taken += 10;
            // Forty bytes a second pay for 0.4 of each second: the grace lasts for 8.3 s.
            assert!(now < 9_000, "a drip goes on");
        }
        assert!(now > 5_000, "{now}");
    }

    #[test]
    fn counts_wrap() {
        let mut outflow =
            Outflow { queued: u32::MAX - 10, before: u32::MAX - 10, ..Outflow::default() };
        outflow.begin(100, 0);
        assert_eq!(outflow.judge(tcp(50, u32::MAX - 20), &LIMITS(), 1_000), Verdict::Stalled);
        outflow.begin(100, 0);
        assert_eq!(outflow.judge(tcp(50, 120), &LIMITS(), 1_000), Verdict::Going(250));
    }

    #[test]
    fn a_unix_sockets_buffer_tells_by_changing() {
        let mut outflow = Outflow::default();
        outflow.begin(1 << 20, 0);
        let told = |pending| Delivery { pending, taken: None };
        assert_eq!(outflow.judge(told(5_000), &LIMITS(), 900), Verdict::Going(100));
        assert_eq!(outflow.judge(told(4_000), &LIMITS(), 950), Verdict::Going(250));
        assert_eq!(outflow.judge(told(4_000), &LIMITS(), 1_950), Verdict::Stalled);
    }
}
