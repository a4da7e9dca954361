//! Messages between the supervisor and a worker.
//!
//! A SOCK_SEQPACKET pair keeps message boundaries, tells of the other side's death by
//! end-of-file, and carries descriptors (SCM_RIGHTS), which therefore never have to survive an
//! `exec` by number: the one descriptor a worker inherits is its end of the pair, as standard
//! input. Bodies are JSON, since they are rare and an upgrade lets two versions talk.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message in bytes; well below the default send buffer of a unix socket.
const MESSAGE_MAX: usize = 64 << 10;

/// Most descriptors in one message; the kernel's own limit (SCM_MAX_FD) is 253.
pub(crate) const DESCRIPTORS_MAX: usize = 128;

/// One end of a message channel.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Two ends that are connected with each other, both closed on exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that whoever started this process left as its standard input, which is no
    /// longer to be found there afterwards.
    pub(crate) fn adopt_standard_input() -> io::Result<Self> {
        let link = io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&link)? != SocketType::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Nothing that is started from here may find the channel as its standard input.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(Self(link))
    }

    /// Whether there is a message, or the end, to be received without waiting.
    pub(crate) fn has_something(&self) -> bool {
        let mut sources = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut sources, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Sends one message with the descriptors that belong to it. Never waits: a worker that
    /// does not read must not stop its supervisor.
    pub(crate) fn send<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        if body.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&body)],
            &mut ancillary,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )?;
        Ok(())
    }

    /// The next message and its descriptors, or `None` when the other side is gone.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut body = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let into = &mut [IoSliceMut::new(&mut body)];
            match recvmsg(&self.0, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                // The other side died with messages of ours unread.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                received => break received?,
            }
        };
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a control message was cut short; is the open-file limit too low?",
            ));
        }
        Ok(Some((serde_json::from_slice(&body[..received.bytes])?, descriptors)))
    }
}

impl From<OwnedFd> for Link {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn messages_keep_their_boundaries_and_their_descriptors() {
        let (one, other) = Link::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        one.send(&"first", &[]).unwrap();
        one.send(&"second", &[far.as_fd(), far.as_fd()]).unwrap();
        drop(far);
        let (text, descriptors) = other.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("first", 0));
        let (text, descriptors) = other.receive::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("second", 2));
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        UnixStream::from(descriptors.into_iter().next().unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn the_other_side_gone_is_the_end() {
        let (one, other) = Link::pair().unwrap();
        one.send(&1, &[]).unwrap();
        drop(one);
        assert_eq!(other.receive::<u32>().unwrap().unwrap().0, 1);
        assert!(other.receive::<u32>().unwrap().is_none());
        // A message that nobody read must not look like an error either.
        let (one, other) = Link::pair().unwrap();
        other.send(&1, &[]).unwrap();
        drop(one);
        assert!(other.receive::<u32>().unwrap().is_none());
    }
}
