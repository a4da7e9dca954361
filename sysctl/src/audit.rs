//! The rules of the kernel's audit system, which each system call is held against.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

// linux/audit.h and linux/netlink.h
const LIST_RULES: u16 = 1013;
const FILTER_TASK: u32 = 1;
const FILTER_ENTRY: u32 = 2;
const FILTER_EXIT: u32 = 4;
const FILTER_URING_EXIT: u32 = 7;
const FILTER_PREPEND: u32 = 0x10;
const NEVER: u32 = 0;
const REQUEST: u16 = 1;
const HEADER_LEN: usize = 16;
/// A rule with all of its fields, and the text of the longest paths it could name.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// More rules than anybody has: a kernel that talks without end is not listened to.
const RULES_MAX: usize = 65_536;
/// How long the kernel may take for one rule.
const PATIENCE_S: i64 = 1;

/// A rule, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The list that it is on: at a task's start, at a system call's end, and others.
    pub list: u32,
    /// Whether it says that nothing is recorded.
    pub never: bool,
    /// How many conditions it has.
    pub conditions: u32,
}

/// Asks the kernel for its rules. The library for netlink is of no use here: the kernel
/// acknowledges before it answers, and ends with a message shorter than the library takes.
///
/// # Errors
/// EPERM without CAP_AUDIT_CONTROL or in another process namespace than the first, ECONNREFUSED
/// in another user namespace, EPROTONOSUPPORT in a kernel without audit.
pub fn rules() -> io::Result<Vec<Rule>> {
    let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
    let audit: OwnedFd = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkAudit)?;
    setsockopt(&audit, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    let mut request = Vec::with_capacity(HEADER_LEN);
    request.extend((HEADER_LEN as u32).to_ne_bytes());
    request.extend(LIST_RULES.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    // Sequence number and sender: one question on a socket of its own needs neither.
    request.extend([0; 8]);
    send(audit.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut rules = Vec::new();
    let mut message = vec![0; MESSAGE_LEN_MAX];
    while rules.len() < RULES_MAX {
        let length = recv(audit.as_raw_fd(), &mut message, MsgFlags::empty())?;
        match Reply::parse(message.get(..length).unwrap_or_default())? {
            Reply::Rule(rule) => rules.push(rule),
            Reply::Other => {}
            Reply::End => break,
        }
    }
    Ok(rules)
}

/// How many of the rules are held against system calls: none where the first rule for tasks
/// says that no task is looked at.
pub fn on_system_calls(rules: &[Rule]) -> usize {
    let mut of_tasks = rules.iter().filter(|rule| rule.list == FILTER_TASK);
    if of_tasks.next().is_some_and(|rule| rule.never && rule.conditions == 0) {
        return 0;
    }
    let lists = [FILTER_ENTRY, FILTER_EXIT, FILTER_URING_EXIT];
    rules.iter().filter(|rule| lists.contains(&rule.list)).count()
}

/// The same from the rules that auditctl loads at boot.
pub fn configured_on_system_calls(text: &str) -> usize {
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if lines().any(|line| line.contains("never,task") || line.contains("task,never")) {
        return 0;
    }
    lines().filter(|line| words(line).iter().any(|word| word == "-S" || word == "-w")).count()
}

/// A message of the kernel.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Rule(Rule),
    Other,
    End,
}

impl Reply {
    fn parse(message: &[u8]) -> io::Result<Reply> {
        let word = |at: usize| {
            let bytes = message.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_ne_bytes).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok());
        let kind = kind.map(u16::from_ne_bytes).map(i32::from);
        match kind.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))? {
            libc::NLMSG_DONE => Ok(Reply::End),
            libc::NLMSG_ERROR => match word(HEADER_LEN)?.cast_signed() {
                0 => Ok(Reply::Other),
                code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            },
            kind if kind == i32::from(LIST_RULES) => Ok(Reply::Rule(Rule {
                list: word(HEADER_LEN)? & !FILTER_PREPEND,
                never: word(HEADER_LEN + 4)? == NEVER,
                conditions: word(HEADER_LEN + 8)?,
            })),
            _ => Ok(Reply::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, words: &[u32]) -> Vec<u8> {
        let length = HEADER_LEN + words.len() * 4;
        let mut bytes = (length as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn messages_are_rules_errors_or_the_end() {
        let rule = message(LIST_RULES, &[FILTER_EXIT | FILTER_PREPEND, 2, 3, 0, 0]);
        let wanted = Rule { list: FILTER_EXIT, never: false, conditions: 3 };
        assert_eq!(Reply::parse(&rule).expect("rule"), Reply::Rule(wanted));
        assert_eq!(Reply::parse(&message(3, &[])).expect("end"), Reply::End);
        assert_eq!(Reply::parse(&message(2, &[0])).expect("ack"), Reply::Other);
        let refused = Reply::parse(&message(2, &[(-libc::EPERM).cast_unsigned()]));
        assert_eq!(refused.expect_err("error").raw_os_error(), Some(libc::EPERM));
        for short in [&[][..], &[0; 5], &rule[..HEADER_LEN + 10], &message(2, &[])] {
            assert!(Reply::parse(short).is_err(), "{short:?}");
        }
        assert!(Reply::parse(&message(2, &[i32::MIN.cast_unsigned()])).is_err());
    }

    #[test]
    fn a_first_rule_that_leaves_tasks_out_spares_the_rest() {
        let rule = |list, never, conditions| Rule { list, never, conditions };
        let calls = [rule(FILTER_EXIT, false, 2), rule(FILTER_EXIT, true, 1), rule(5, false, 1)];
        assert_eq!(on_system_calls(&calls), 2);
        let with = |first| [&[first], &calls[..]].concat();
        assert_eq!(on_system_calls(&with(rule(FILTER_TASK, true, 0))), 0);
        assert_eq!(on_system_calls(&with(rule(FILTER_TASK, true, 1))), 2);
        assert_eq!(on_system_calls(&with(rule(FILTER_TASK, false, 0))), 2);
        assert_eq!(on_system_calls(&with(rule(FILTER_URING_EXIT, false, 0))), 3);
    }

    /// Reading changes nothing; few may.
    #[test]
    fn the_kernel_tells_or_says_why_not() {
        match rules() {
            Ok(rules) => println!("{} rules", rules.len()),
            Err(error) => {
                assert!(error.raw_os_error().is_some(), "{error:?}");
                println!("skipped: the kernel does not tell: {error}");
            }
        }
    }
}
