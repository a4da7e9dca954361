//! Sets of CPU numbers, in the two notations that the kernel reads and writes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The highest CPU number that is believed when read; the kernel's NR_CPUS is at most 8192.
pub const CPU_MAX: u32 = 8191;

/// A set of CPU numbers. Its text form is the kernel's list notation, `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet(BTreeSet<u32>);

/// A CPU list or mask that is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSetError {
    /// The part that could not be read.
    pub part: String,
}

impl CpuSet {
    /// The empty set.
    pub const fn new() -> CpuSet {
        CpuSet(BTreeSet::new())
    }

    /// Adds a CPU.
    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    /// Whether the CPU is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many CPUs are in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The CPUs, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The lowest CPU.
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// The CPUs that are in both sets.
    pub fn intersection(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.intersection(&other.0).copied().collect())
    }

    /// The CPUs that are in this set and not in the other.
    pub fn difference(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }

    /// The CPUs that are in either set.
    pub fn union(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.union(&other.0).copied().collect())
    }

    /// Whether every CPU of this set is in the other.
    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The kernel's mask notation: 32-bit groups in hexadecimal, highest first, as many as
    /// `cpus` possible CPUs need. `/proc/irq` answers EOVERFLOW to a mask wider than the kernel
    /// has CPUs, so the width follows the live count and not a fixed size.
    pub fn to_mask(&self, cpus: u32) -> String {
        let highest = self.0.last().map_or(0, |cpu| cpu + 1);
        let groups = cpus.max(highest).max(1).div_ceil(32);
        let mut words = vec![0u32; groups as usize];
        for cpu in self.iter() {
            words[(cpu / 32) as usize] |= 1 << (cpu % 32);
        }
        let words: Vec<String> = words.iter().rev().map(|word| format!("{word:08x}")).collect();
        words.join(",")
    }

    /// Reads the kernel's mask notation. Groups may have fewer than eight digits, as the kernel
    /// writes the highest one.
    pub fn from_mask(text: &str) -> Result<CpuSet, CpuSetError> {
        let mut set = CpuSet::new();
        for (group, digits) in text.trim().rsplit(',').enumerate() {
            let error = || CpuSetError { part: digits.to_string() };
            if digits.is_empty() || digits.len() > 8 {
                return Err(error());
            }
            let word = u32::from_str_radix(digits, 16).map_err(|_| error())?;
            let base = u32::try_from(group * 32).map_err(|_| error())?;
            if word != 0 && base > CPU_MAX {
                return Err(error());
            }
            (0..32).filter(|bit| word & (1 << bit) != 0).for_each(|bit| set.insert(base + bit));
        }
        Ok(set)
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    /// Reads the list notation; the empty text is the empty set.
    fn from_str(text: &str) -> Result<CpuSet, CpuSetError> {
        let mut set = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let error = || CpuSetError { part: part.to_string() };
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.parse().map_err(|_| error())?;
            let last: u32 = last.parse().map_err(|_| error())?;
            if first > last || last > CPU_MAX {
                return Err(error());
            }
            set.extend(first..=last);
        }
        Ok(CpuSet(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl Extend<u32> for CpuSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, cpus: I) {
        self.0.extend(cpus);
    }
}

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CpuSet, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for CpuSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a CPU list such as 0-3,8: {:?}", self.part)
    }
}

impl std::error::Error for CpuSetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, written) in [
            ("0-3,8\n", "0-3,8"),
            ("", ""),
            ("5", "5"),
            ("3,2,1", "1-3"),
            ("0-1,2-4,6-7", "0-4,6-7"),
        ] {
            assert_eq!(text.parse::<CpuSet>().expect(text).to_string(), written);
        }
        for bad in ["3-1", "x", "1-", "-1", "0-99999", "1.5"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn masks_have_as_many_groups_as_there_are_cpus() {
        let set: CpuSet = "0,33".parse().expect("list");
        assert_eq!(set.to_mask(64), "00000002,00000001");
        assert_eq!(set.to_mask(65), "00000000,00000002,00000001");
        let low: CpuSet = "1".parse().expect("list");
        assert_eq!(low.to_mask(2), "00000002");
        assert_eq!(CpuSet::from_mask("3,00000000\n").expect("mask").to_string(), "32-33");
        assert_eq!(CpuSet::from_mask("00000002,00000001"), Ok(set));
        for bad in ["", "1,,1", "g", "000000001"] {
            assert!(CpuSet::from_mask(bad).is_err(), "{bad}");
        }
    }
}
