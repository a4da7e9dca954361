//! Who workers run as.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

/// A user of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resolved {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    /// All groups it is in, looked up once: that loads libraries of the name service, which no
    /// worker should carry.
    groups: Vec<u32>,
}

/// The user that workers are meant to run as where the config names none.
const DEFAULT: &str = "ember";

/// The user that every system has, for where that one does not exist.
const LAST_RESORT: &str = "nobody";

/// Who workers run as, and what an administrator should hear about it. Only root can change
/// over to another user; for anybody else the answer is nobody else.
///
/// # Errors
/// A user that the config names and the system does not know.
pub(crate) fn resolve(
    configured: Option<&str>,
) -> Result<(Option<Resolved>, Option<String>), String> {
    if !geteuid().is_root() {
        return Ok((None, None));
    }
    if let Some(name) = configured {
        let user = look_up(name)?.ok_or_else(|| {
            format!(
                "user = \"{name}\": there is no such user; create it with `useradd --system {name}`"
            )
        })?;
        let warning = (user.uid == 0).then(|| {
            format!("workers run as {name}, that is with all rights; any ordinary user would do")
        });
        return Ok((Some(user).filter(|user| user.uid != 0), warning));
    }
    if let Some(user) = look_up(DEFAULT)? {
        return Ok((Some(user), None));
    }
    let mend = format!("create one of their own with `useradd --system {DEFAULT}`, or set `user`");
    match look_up(LAST_RESORT)? {
        Some(user) => {
            let warning =
                format!("there is no user \"{DEFAULT}\", so workers run as {LAST_RESORT}; {mend}");
            Ok((Some(user), Some(warning)))
        }
        None => Err(format!("there is no user that workers could run as; {mend}")),
    }
}

impl Resolved {
    /// Changes the whole process over to this user and the groups it is in, for good.
    pub(super) fn become_it(&self) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        // A process that changes its user hides its /proc from itself: the process metrics and
        // a profiler need that back.
        Ok(nix::sys::prctl::set_dumpable(true)?)
    }
}

fn look_up(name: &str) -> Result<Option<Resolved>, String> {
    let user =
        User::from_name(name).map_err(|error| format!("cannot look up user {name}: {error}"))?;
    let Some(user) = user else { return Ok(None) };
    let groups = CString::new(name)
        .map_err(io::Error::from)
        .and_then(|name| Ok(getgrouplist(&name, user.gid)?))
        .map_err(|error| format!("cannot look up the groups of {name}: {error}"))?;
    Ok(Some(Resolved {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_changes_to_nobody_and_root_always_to_somebody() {
        let (user, warning) = resolve(None).unwrap();
        if geteuid().is_root() {
            let user = user.unwrap();
            assert_ne!(user.uid, 0);
            assert_eq!(warning.is_some(), user.name != DEFAULT);
        } else {
            assert_eq!((user, warning), (None, None));
        }
    }

    #[test]
    fn a_user_named_by_the_config_has_to_exist() {
        let outcome = resolve(Some("no-such-user-here"));
        if geteuid().is_root() {
            assert!(outcome.unwrap_err().contains("useradd"));
            let (user, warning) = resolve(Some("root")).unwrap();
            assert_eq!(user, None);
            assert!(warning.unwrap().contains("all rights"));
        } else {
            assert_eq!(outcome, Ok((None, None)));
        }
    }
}
