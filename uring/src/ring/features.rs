//! What the kernel can do, asked of the kernel: a feature is probed or tried, never guessed from a
//! version. Each absent one has something that is done instead.

use std::io;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::types::Napi;
use io_uring::{IoUring, Probe, opcode};

use crate::{Feature, FeatureState, Options};

/// Features by the names that [`Options::avoid`] and [`crate::Info`] use, and what is done without.
pub(super) const DEFER_TASKRUN: &str = "defer_taskrun";
pub(super) const NO_SQARRAY: &str = "no_sqarray";
pub(super) const REGISTERED_RING: &str = "registered_ring_fd";
const DIRECT: &str = "direct_descriptors";
const FD_INSTALL: &str = "fixed_fd_install";
const SEND_ZC: &str = "send_zc";
const MIN_TIMEOUT: &str = "min_timeout";
const NAPI: &str = "napi_busy_poll";
const SQPOLL: &str = "sqpoll";
const RESTRICTIONS: &str = "restrictions";
pub(super) const INCREMENTAL: &str = "incremental_buffers";

/// `IORING_REGISTER_*` that a running driver may need.
const REGISTER_OPS: [u8; 8] = [6, 15, 16, 19, 20, 21, 24, 25];

/// Collects what was found.
pub(super) struct Features {
    found: Vec<Feature>,
    avoid: Vec<String>,
    probe: Probe,
}

impl Features {
    pub(super) fn new(ring: &IoUring, options: &Options) -> io::Result<Features> {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        Ok(Features { found: Vec::new(), avoid: options.avoid.clone(), probe })
    }

    pub(super) fn into_found(self) -> Vec<Feature> {
        self.found
    }

    /// Notes a feature and says whether it is used.
    pub(super) fn note(
        &mut self,
        name: &'static str,
        wanted: bool,
        there: bool,
        instead: &'static str,
    ) -> bool {
        let state = match (wanted, there) {
            (true, true) => FeatureState::Used,
            (true, false) => FeatureState::Absent { instead },
            (false, _) => FeatureState::Unused,
        };
        self.found.push(Feature { name, state });
        wanted && there
    }

    fn avoids(&self, name: &str) -> bool {
        avoids(&self.avoid, name)
    }

    /// Direct descriptors need a way back to an ordinary one, to ask for a peer's address.
    pub(super) fn direct(&mut self, ring: &IoUring, wanted: bool, table: u32) -> io::Result<bool> {
        let install = self.probe.is_supported(opcode::FixedFdInstall::CODE);
        let install = install && !self.avoids(FD_INSTALL);
        self.note(FD_INSTALL, wanted, install, "ordinary descriptors");
        let there = install && !self.avoids(DIRECT);
        if there && wanted {
            ring.submitter().register_files_sparse(table)?;
        }
        Ok(self.note(DIRECT, wanted, there, "ordinary descriptors"))
    }

    pub(super) fn zero_copy(&mut self, wanted: bool) -> bool {
        let codes = [opcode::SendZc::CODE, opcode::SendMsgZc::CODE];
        let there = codes.into_iter().all(|code| self.probe.is_supported(code));
        let there = there && !self.avoids(SEND_ZC);
        self.note(SEND_ZC, wanted, there, "sends by copy")
    }

    pub(super) fn min_wait(&mut self, ring: &IoUring, wanted: bool) -> bool {
        let there = ring.params().is_feature_min_timeout() && !self.avoids(MIN_TIMEOUT);
        self.note(MIN_TIMEOUT, wanted, there, "turns end with the first completion")
    }

    pub(super) fn sqpoll(&mut self, options: &Options) {
        self.note(SQPOLL, options.sqpoll_cpu.is_some(), true, "");
    }

    /// Busy polling of the NIC's queues. Since 6.9.
    pub(super) fn busy_poll(&mut self, ring: &IoUring, options: &Options) {
        let Some(time) = options.busy_poll else {
            self.note(NAPI, false, false, "");
            return;
        };
        let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut napi = Napi::new().set_busy_poll_timeout(time).set_prefer_busy_poll(true);
        let there = !self.avoids(NAPI) && ring.submitter().register_napi(&mut napi).is_ok();
        self.note(NAPI, true, there, "sleeps until an interrupt");
    }

    /// Allows nothing but what the driver does.
    pub(super) fn restrict(&mut self, ring: &IoUring, options: &Options) {
        let wanted = options.restrict;
        let there = wanted && !self.avoids(RESTRICTIONS) && {
            let mut allowed = restrictions();
            ring.submitter().register_restrictions(&mut allowed).is_ok()
        };
        self.note(RESTRICTIONS, wanted, there, "any operation");
    }
}

pub(super) fn avoids(avoid: &[String], name: &str) -> bool {
    avoid.iter().any(|avoided| avoided == name)
}

/// What a restricted ring takes.
pub(super) fn restrictions() -> Vec<Restriction> {
    let operations = [
        opcode::AcceptMulti::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::SendZc::CODE,
        opcode::SendMsg::CODE,
        opcode::SendMsgZc::CODE,
        opcode::Shutdown::CODE,
        opcode::Close::CODE,
        opcode::AsyncCancel2::CODE,
        opcode::Read::CODE,
        opcode::FixedFdInstall::CODE,
        opcode::Connect::CODE,
    ];
    let flags = Flags::FIXED_FILE
        | Flags::IO_LINK
        | Flags::IO_HARDLINK
        | Flags::BUFFER_SELECT
        | Flags::SKIP_SUCCESS;
    let mut allowed: Vec<_> = operations.into_iter().map(Restriction::sqe_op).collect();
    allowed.extend(REGISTER_OPS.into_iter().map(Restriction::register_op));
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    allowed
}
