//! NIC settings by the SIOCETHTOOL ioctl.
//!
//! The only file of this crate with `unsafe` in it. Every ethtool command is an array of 32-bit
//! words that begins with the command's number; the typed functions below own those arrays, so
//! that no caller can hand the kernel one that is too short.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};

/// How many queues a driver has, and could have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// Receive-only channels.
    pub rx: u32,
    /// Transmit-only channels.
    pub tx: u32,
    /// Channels that do both.
    pub combined: u32,
    /// The most receive-only channels.
    pub rx_max: u32,
    /// The most transmit-only channels.
    pub tx_max: u32,
    /// The most channels that do both.
    pub combined_max: u32,
}

/// Descriptor ring sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Receive descriptors.
    pub rx: u32,
    /// Transmit descriptors.
    pub tx: u32,
    /// The most receive descriptors.
    pub rx_max: u32,
    /// The most transmit descriptors.
    pub tx_max: u32,
}

/// The interrupt coalescing settings that a server has a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoalesceField {
    /// Microseconds to wait after a packet came.
    RxUsecs,
    /// Packets to wait for.
    RxFrames,
    /// Microseconds to wait after a packet went.
    TxUsecs,
    /// Packets to wait for on the way out.
    TxFrames,
    /// 1 where the driver adapts the receive side itself.
    AdaptiveRx,
    /// 1 where the driver adapts the transmit side itself.
    AdaptiveTx,
}

/// One offload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// The kernel's name for it, as in `ethtool -k`'s source.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// Whether it can be changed; `[fixed]` otherwise.
    pub changeable: bool,
}

const GCOALESCE: u32 = 0x0e;
const SCOALESCE: u32 = 0x0f;
const GRINGPARAM: u32 = 0x10;
const SRINGPARAM: u32 = 0x11;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GRXFHINDIR: u32 = 0x38;
const SRXFHINDIR: u32 = 0x39;
const GFEATURES: u32 = 0x3a;
const SFEATURES: u32 = 0x3b;
const GCHANNELS: u32 = 0x3c;
const SCHANNELS: u32 = 0x3d;

/// The string set with the names of features, and the length of each name.
const FEATURE_STRINGS: u32 = 4;
const STRING_LEN: usize = 32;
/// The most feature names and hash table entries that are believed.
const FEATURES_MAX: usize = 1024;
const RSS_TABLE_MAX: usize = 65_536;

/// A socket to ask about NICs with.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
}

impl Ethtool {
    /// Opens the socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What socket(2) said.
    pub fn open() -> io::Result<Ethtool> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Ethtool { socket: socket(AddressFamily::Inet, SockType::Datagram, flags, None)? })
    }

    /// Reads the channels.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has no say over them.
    pub fn channels(&self, nic: &str) -> io::Result<Channels> {
        let mut words = [0u32; 9];
        words[0] = GCHANNELS;
        self.command(nic, &mut words)?;
        let [_, rx_max, tx_max, _, combined_max, rx, tx, _, combined] = words;
        Ok(Channels { rx, tx, combined, rx_max, tx_max, combined_max })
    }

    /// Changes the channels; the driver may take the link down for it.
    ///
    /// # Errors
    /// EINVAL for counts that it cannot do.
    pub fn set_channels(&self, nic: &str, channels: &Channels) -> io::Result<()> {
        let mut words = [0u32; 9];
        words[0] = GCHANNELS;
        self.command(nic, &mut words)?;
        words[0] = SCHANNELS;
        (words[5], words[6], words[8]) = (channels.rx, channels.tx, channels.combined);
        self.command(nic, &mut words).map(drop)
    }

    /// Reads the ring sizes.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has none.
    pub fn rings(&self, nic: &str) -> io::Result<Rings> {
        let words = self.ring_words(nic)?;
        Ok(Rings { rx: words[5], tx: words[8], rx_max: words[1], tx_max: words[4] })
    }

    /// Changes the ring sizes; the driver may take the link down for it.
    ///
    /// # Errors
    /// EINVAL for sizes that it cannot do.
    pub fn set_rings(&self, nic: &str, rings: &Rings) -> io::Result<()> {
        let mut words = self.ring_words(nic)?;
        words[0] = SRINGPARAM;
        (words[5], words[8]) = (rings.rx, rings.tx);
        self.command(nic, &mut words).map(drop)
    }

    fn ring_words(&self, nic: &str) -> io::Result<[u32; 9]> {
        let mut words = [0u32; 9];
        words[0] = GRINGPARAM;
        self.command(nic, &mut words)?;
        Ok(words)
    }

    /// Reads one coalescing setting.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has none.
    pub fn coalesce(&self, nic: &str, field: CoalesceField) -> io::Result<u32> {
        Ok(self.coalesce_words(nic)?[field.index()])
    }

    /// Changes one coalescing setting.
    ///
    /// # Errors
    /// EOPNOTSUPP or EINVAL where the driver does not take this one.
    pub fn set_coalesce(&self, nic: &str, field: CoalesceField, value: u32) -> io::Result<()> {
        let mut words = self.coalesce_words(nic)?;
        words[0] = SCOALESCE;
        words[field.index()] = value;
        self.command(nic, &mut words).map(drop)
    }

    fn coalesce_words(&self, nic: &str) -> io::Result<[u32; 23]> {
        let mut words = [0u32; 23];
        words[0] = GCOALESCE;
        self.command(nic, &mut words)?;
        Ok(words)
    }

    /// Reads all features.
    ///
    /// # Errors
    /// What the kernel says of a device that is gone.
    pub fn features(&self, nic: &str) -> io::Result<Vec<Feature>> {
        let names = self.feature_names(nic)?;
        let blocks = names.len().div_ceil(32);
        // Four words a block: available, requested, active, never changed.
        let mut words = vec![0u32; 2 + 4 * blocks];
        (words[0], words[1]) = (GFEATURES, blocks as u32);
        self.command(nic, &mut words)?;
        let bit = |index: usize, word: usize| {
            words[2 + 4 * (index / 32) + word] & (1 << (index % 32)) != 0
        };
        let feature = |(index, name): (usize, String)| Feature {
            name,
            on: bit(index, 2),
            changeable: bit(index, 0) && !bit(index, 3),
        };
        Ok(names.into_iter().enumerate().map(feature).filter(|f| !f.name.is_empty()).collect())
    }

    /// Turns a feature on or off.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no such feature or it is fixed.
    pub fn set_feature(&self, nic: &str, name: &str, on: bool) -> io::Result<()> {
        let names = self.feature_names(nic)?;
        let unsupported = |why: &str| io::Error::new(io::ErrorKind::Unsupported, why.to_string());
        let index = names.iter().position(|known| known == name);
        let index = index.ok_or_else(|| unsupported("this kernel has no such feature"))?;
        let blocks = names.len().div_ceil(32);
        // Two words a block: which bits are meant, and what they shall be.
        let mut words = vec![0u32; 2 + 2 * blocks];
        (words[0], words[1]) = (SFEATURES, blocks as u32);
        words[2 + 2 * (index / 32)] = 1 << (index % 32);
        words[3 + 2 * (index / 32)] = u32::from(on) << (index % 32);
        // The answer's first bit says that a feature asked for cannot be changed.
        match self.command(nic, &mut words)? & 1 {
            0 => Ok(()),
            _ => Err(unsupported("the driver has fixed this feature")),
        }
    }

    fn feature_names(&self, nic: &str) -> io::Result<Vec<String>> {
        // Header of two words, the mask of sets asked for as 64 bits, then the count.
        let mut info = [GSSET_INFO, 0, 1 << FEATURE_STRINGS, 0, 0];
        self.command(nic, &mut info)?;
        let count = (info[4] as usize).min(FEATURES_MAX);
        let mut words = vec![0u32; 3 + count * STRING_LEN / 4];
        (words[0], words[1], words[2]) = (GSTRINGS, FEATURE_STRINGS, count as u32);
        self.command(nic, &mut words)?;
        let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |raw: &[u8]| {
            let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
            String::from_utf8_lossy(&raw[..end]).into_owned()
        };
        Ok(bytes.chunks_exact(STRING_LEN).map(name).collect())
    }

    /// Reads the hash indirection table: a queue an entry.
    ///
    /// # Errors
    /// EOPNOTSUPP where the driver has none.
    pub fn rss_table(&self, nic: &str) -> io::Result<Vec<u32>> {
        let mut header = [GRXFHINDIR, 0];
        self.command(nic, &mut header)?;
        let size = (header[1] as usize).min(RSS_TABLE_MAX);
        let mut words = vec![0u32; 2 + size];
        (words[0], words[1]) = (GRXFHINDIR, size as u32);
        self.command(nic, &mut words)?;
        Ok(words.split_off(2))
    }

    /// Writes the hash indirection table.
    ///
    /// # Errors
    /// EINVAL for a queue that does not exist, or another length than the table has.
    pub fn set_rss_table(&self, nic: &str, table: &[u32]) -> io::Result<()> {
        let mut words = vec![SRXFHINDIR, table.len() as u32];
        words.extend(table);
        self.command(nic, &mut words).map(drop)
    }

    /// Gives the kernel a command and its room for the answer, and what it returned.
    fn command(&self, nic: &str, words: &mut [u32]) -> io::Result<i32> {
        let mut name = [0 as libc::c_char; libc::IFNAMSIZ];
        if nic.is_empty() || nic.len() >= name.len() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        for (slot, byte) in name.iter_mut().zip(nic.bytes()) {
            *slot = byte as libc::c_char;
        }
        let mut request = libc::ifreq {
            ifr_name: name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: words.as_mut_ptr().cast::<libc::c_char>(),
            },
        };
        let socket: RawFd = self.socket.as_raw_fd();
        // SAFETY: `request` and the words it points to are alive and not otherwise borrowed for
        // the call, and the kernel writes no further than the command and the counts in its
        // first words say, for which the callers above have made the array long enough.
        Ok(unsafe { siocethtool(socket, &mut request) }?)
    }
}

impl CoalesceField {
    /// All of them.
    pub const ALL: [CoalesceField; 6] = [
        CoalesceField::RxUsecs,
        CoalesceField::RxFrames,
        CoalesceField::TxUsecs,
        CoalesceField::TxFrames,
        CoalesceField::AdaptiveRx,
        CoalesceField::AdaptiveTx,
    ];

    /// Its place in the kernel's struct ethtool_coalesce, in words.
    fn index(self) -> usize {
        match self {
            CoalesceField::RxUsecs => 1,
            CoalesceField::RxFrames => 2,
            CoalesceField::TxUsecs => 5,
            CoalesceField::TxFrames => 6,
            CoalesceField::AdaptiveRx => 10,
            CoalesceField::AdaptiveTx => 11,
        }
    }

    /// Its name in keys, as `ethtool -C` spells it.
    pub fn name(self) -> &'static str {
        match self {
            CoalesceField::RxUsecs => "rx-usecs",
            CoalesceField::RxFrames => "rx-frames",
            CoalesceField::TxUsecs => "tx-usecs",
            CoalesceField::TxFrames => "tx-frames",
            CoalesceField::AdaptiveRx => "adaptive-rx",
            CoalesceField::AdaptiveTx => "adaptive-tx",
        }
    }
}

mod ioctl {
    nix::ioctl_readwrite_bad!(siocethtool, nix::libc::SIOCETHTOOL, nix::libc::ifreq);
}
use ioctl::siocethtool;

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback exists in every network namespace, and reading it changes nothing.
    #[test]
    fn loopback_has_features_and_neither_rings_nor_channels() {
        let ethtool = Ethtool::open().expect("socket");
        let features = ethtool.features("lo").expect("features");
        let gso = features.iter().find(|feature| feature.name == "tx-generic-segmentation");
        assert!(gso.is_some(), "{features:?}");
        let fixed = features.iter().find(|feature| feature.name == "loopback").expect("loopback");
        assert!(fixed.on && !fixed.changeable, "{fixed:?}");
        assert!(ethtool.channels("lo").is_err());
        assert!(ethtool.rings("lo").is_err());
        assert!(ethtool.rss_table("lo").is_err());
        assert!(ethtool.coalesce("lo", CoalesceField::RxUsecs).is_err());
    }

    #[test]
    fn names_that_no_device_can_have_are_errors() {
        let ethtool = Ethtool::open().expect("socket");
        assert!(ethtool.channels("").is_err());
        assert!(ethtool.features("a-name-longer-than-fifteen").is_err());
        assert!(ethtool.features("nosuchdevice0").is_err());
        assert!(ethtool.set_feature("lo", "no-such-feature", true).is_err());
    }
}
