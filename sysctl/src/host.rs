//! The host as the tuner sees it: files of /proc and /sys, NIC settings, netlink, irqbalance.
//!
//! Everything goes through one trait, so that tests can put a tree of files in the kernel's
//! place, let any access fail, and pull the plug at any step.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::audit;
use crate::ethtool::{Channels, CoalesceField, Ethtool, Feature, Rings};
use crate::irqbalance;
use crate::netdev::{self, Napi, NapiField};
use crate::qdisc::{self, Qdiscs};
use crate::session;

/// What can be asked of a host and done to it. Paths are absolute and UTF-8.
pub trait Host {
    /// Reads a small file, without the newline at its end.
    ///
    /// # Errors
    /// As read(2).
    fn read(&self, path: &str) -> io::Result<String>;
    /// Writes a value into a file that exists, in one write(2).
    ///
    /// # Errors
    /// As write(2).
    fn write(&self, path: &str, value: &str) -> io::Result<()>;
    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As readdir(3).
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// The canonical path that a symbolic link or directory stands for.
    ///
    /// # Errors
    /// As realpath(3).
    fn real(&self, path: &str) -> io::Result<String>;
    /// How many queues a NIC has.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has no say.
    fn channels(&self, nic: &str) -> io::Result<Channels>;
    /// Changes how many queues a NIC has.
    ///
    /// # Errors
    /// EINVAL for counts that the driver cannot do.
    fn set_channels(&self, nic: &str, channels: &Channels) -> io::Result<()>;
    /// The ring sizes of a NIC.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has none.
    fn rings(&self, nic: &str) -> io::Result<Rings>;
    /// Changes the ring sizes.
    ///
    /// # Errors
    /// EINVAL for sizes that the driver cannot do.
    fn set_rings(&self, nic: &str, rings: &Rings) -> io::Result<()>;
    /// A coalescing setting.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has none.
    fn coalesce(&self, nic: &str, field: CoalesceField) -> io::Result<u32>;
    /// Changes a coalescing setting.
    ///
    /// # Errors
    /// EINVAL or EOPNOTSUPP where the driver does not take it.
    fn set_coalesce(&self, nic: &str, field: CoalesceField, value: u32) -> io::Result<()>;
    /// The offloads of a NIC.
    ///
    /// # Errors
    /// ENODEV for a device that is gone.
    fn features(&self, nic: &str) -> io::Result<Vec<Feature>>;
    /// Turns an offload on or off.
    ///
    /// # Errors
    /// `Unsupported` where it is fixed.
    fn set_feature(&self, nic: &str, name: &str, on: bool) -> io::Result<()>;
    /// The hash indirection table of a NIC.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has none.
    fn rss_table(&self, nic: &str) -> io::Result<Vec<u32>>;
    /// Writes the hash indirection table.
    ///
    /// # Errors
    /// EINVAL for queues that do not exist.
    fn set_rss_table(&self, nic: &str, table: &[u32]) -> io::Result<()>;
    /// The NAPI instances of a NIC.
    ///
    /// # Errors
    /// Where the kernel lacks the netdev family.
    fn napis(&self, ifindex: u32) -> io::Result<Vec<Napi>>;
    /// A setting of a NAPI instance.
    ///
    /// # Errors
    /// `Unsupported` before Linux 6.13.
    fn napi_setting(&self, id: u32, field: NapiField) -> io::Result<u32>;
    /// Changes a setting of a NAPI instance.
    ///
    /// # Errors
    /// EOPNOTSUPP before Linux 6.13.
    fn set_napi(&self, id: u32, field: NapiField, value: u32) -> io::Result<()>;
    /// The queueing disciplines of a device.
    ///
    /// # Errors
    /// Where the kernel has no traffic control.
    fn qdiscs(&self, ifindex: u32) -> io::Result<Qdiscs>;
    /// The rules of the kernel's audit system.
    ///
    /// # Errors
    /// EPERM without CAP_AUDIT_CONTROL, and in containers.
    fn audit_rules(&self) -> io::Result<Vec<audit::Rule>>;
    /// The ban list of irqbalance; none where it does not run.
    ///
    /// # Errors
    /// Where it runs and does not answer.
    fn irq_bans(&self) -> io::Result<Option<BTreeSet<u32>>>;
    /// Replaces the ban list of irqbalance.
    ///
    /// # Errors
    /// Where it does not run or does not answer.
    fn ban_irqs(&self, irqs: &BTreeSet<u32>) -> io::Result<()>;
    /// The interfaces that remote sessions go over.
    fn session_nics(&self) -> Vec<String>;
    /// Waits for the host to do something by itself.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
    /// Called at every step of apply and revert, with what is about to happen: the places where
    /// a test ends the process.
    fn step(&self, _what: &str) {}
}

/// The host that this process runs on, in its network namespace.
#[derive(Debug)]
pub struct Live {
    ethtool: Ethtool,
}

impl Live {
    /// Opens it.
    ///
    /// # Errors
    /// Where no socket can be had.
    pub fn open() -> io::Result<Live> {
        Ok(Live { ethtool: Ethtool::open()? })
    }
}

impl Host for Live {
    fn read(&self, path: &str) -> io::Result<String> {
        let mut text = fs::read_to_string(path)?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        // Neither created nor truncated: the kernel's files are there or the knob is not.
        let written = OpenOptions::new().write(true).open(path)?.write(value.as_bytes())?;
        if written == value.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(path)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn real(&self, path: &str) -> io::Result<String> {
        Ok(fs::canonicalize(path)?.to_string_lossy().into_owned())
    }

    fn channels(&self, nic: &str) -> io::Result<Channels> {
        self.ethtool.channels(nic)
    }

    fn set_channels(&self, nic: &str, channels: &Channels) -> io::Result<()> {
        self.ethtool.set_channels(nic, channels)
    }

    fn rings(&self, nic: &str) -> io::Result<Rings> {
        self.ethtool.rings(nic)
    }

    fn set_rings(&self, nic: &str, rings: &Rings) -> io::Result<()> {
        self.ethtool.set_rings(nic, rings)
    }

    fn coalesce(&self, nic: &str, field: CoalesceField) -> io::Result<u32> {
        self.ethtool.coalesce(nic, field)
    }

    fn set_coalesce(&self, nic: &str, field: CoalesceField, value: u32) -> io::Result<()> {
        self.ethtool.set_coalesce(nic, field, value)
    }

    fn features(&self, nic: &str) -> io::Result<Vec<Feature>> {
        self.ethtool.features(nic)
    }

    fn set_feature(&self, nic: &str, name: &str, on: bool) -> io::Result<()> {
        self.ethtool.set_feature(nic, name, on)
    }

    fn rss_table(&self, nic: &str) -> io::Result<Vec<u32>> {
        self.ethtool.rss_table(nic)
    }

    fn set_rss_table(&self, nic: &str, table: &[u32]) -> io::Result<()> {
        self.ethtool.set_rss_table(nic, table)
    }

    fn napis(&self, ifindex: u32) -> io::Result<Vec<Napi>> {
        netdev::napis(ifindex)
    }

    fn napi_setting(&self, id: u32, field: NapiField) -> io::Result<u32> {
        netdev::napi_setting(id, field)
    }

    fn set_napi(&self, id: u32, field: NapiField, value: u32) -> io::Result<()> {
        netdev::set_napi(id, field, value)
    }

    fn qdiscs(&self, ifindex: u32) -> io::Result<Qdiscs> {
        qdisc::of_device(ifindex)
    }

    fn audit_rules(&self) -> io::Result<Vec<audit::Rule>> {
        audit::rules()
    }

    fn irq_bans(&self) -> io::Result<Option<BTreeSet<u32>>> {
        irqbalance::bans(Path::new("/"))
    }

    fn ban_irqs(&self, irqs: &BTreeSet<u32>) -> io::Result<()> {
        irqbalance::ban(Path::new("/"), irqs)
    }

    fn session_nics(&self) -> Vec<String> {
        session::nics(self)
    }
}

/// Whether a file or directory is there.
pub(crate) fn exists(host: &dyn Host, path: &str) -> bool {
    host.real(path).is_ok()
}

/// Reads a number.
pub(crate) fn number(host: &dyn Host, path: &str) -> Option<u64> {
    host.read(path).ok()?.trim().parse().ok()
}

/// The last part of a path.
pub(crate) fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
