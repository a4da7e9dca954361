//! Queues, NAPI instances and their interrupts from the kernel's netdev netlink family (6.8).

use std::collections::BTreeMap;
use std::io;

use netlink_bindings::netdev;
use netlink_socket2::NetlinkSocket;
use serde::{Deserialize, Serialize};

/// A NAPI instance: what polls one or more queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Napi {
    /// Its number, good until the device's queues are made again.
    pub id: u32,
    /// The interrupt that wakes it; many drivers do not say.
    pub irq: Option<u32>,
    /// The receive queues that it polls.
    pub rx_queues: Vec<u32>,
    /// The transmit queues that it polls.
    pub tx_queues: Vec<u32>,
}

/// A busy-polling setting of one NAPI instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NapiField {
    /// Empty polls before interrupts are turned on again.
    DeferHardIrqs,
    /// Nanoseconds after which polling goes on without an interrupt.
    GroFlushTimeoutNs,
    /// Nanoseconds for which interrupts stay off while the application polls.
    IrqSuspendTimeoutNs,
}

impl NapiField {
    /// All of them.
    pub const ALL: [NapiField; 3] =
        [NapiField::DeferHardIrqs, NapiField::GroFlushTimeoutNs, NapiField::IrqSuspendTimeoutNs];

    /// Its name in keys.
    pub fn name(self) -> &'static str {
        match self {
            NapiField::DeferHardIrqs => "defer-hard-irqs",
            NapiField::GroFlushTimeoutNs => "gro-flush-timeout-ns",
            NapiField::IrqSuspendTimeoutNs => "irq-suspend-timeout-ns",
        }
    }
}

/// The NAPI instances of a device.
///
/// # Errors
/// Where the kernel lacks the family, or the device is gone.
pub fn napis(ifindex: u32) -> io::Result<Vec<Napi>> {
    let mut socket = NetlinkSocket::new();
    let mut napis: BTreeMap<u32, Napi> = BTreeMap::new();
    let mut request = netdev::Request::new().op_napi_get_dump();
    request.encode().push_ifindex(ifindex);
    let mut replies = socket.request(&request)?;
    while let Some(reply) = replies.recv() {
        let reply = reply.map_err(|error| copy(error.as_io_error()))?;
        if let Ok(id) = reply.get_id() {
            napis.insert(id, Napi { id, irq: reply.get_irq().ok(), ..Napi::default() });
        }
    }
    let mut request = netdev::Request::new().op_queue_get_dump();
    request.encode().push_ifindex(ifindex);
    let mut replies = socket.request(&request)?;
    while let Some(reply) = replies.recv() {
        let reply = reply.map_err(|error| copy(error.as_io_error()))?;
        let (Ok(queue), Ok(id), Ok(kind)) = (reply.get_id(), reply.get_napi_id(), reply.get_type())
        else {
            continue;
        };
        let Some(napi) = napis.get_mut(&id) else { continue };
        match kind {
            _ if kind == netdev::QueueType::Rx as u32 => napi.rx_queues.push(queue),
            _ => napi.tx_queues.push(queue),
        }
    }
    Ok(napis.into_values().collect())
}

/// Reads a setting of a NAPI instance.
///
/// # Errors
/// `Unsupported` where the kernel does not tell it.
pub fn napi_setting(id: u32, field: NapiField) -> io::Result<u32> {
    let mut socket = NetlinkSocket::new();
    let mut request = netdev::Request::new().op_napi_get_do();
    request.encode().push_id(id);
    let mut replies = socket.request(&request)?;
    let reply = replies.recv_one().map_err(|error| copy(error.as_io_error()))?;
    let value = match field {
        NapiField::DeferHardIrqs => reply.get_defer_hard_irqs(),
        NapiField::GroFlushTimeoutNs => reply.get_gro_flush_timeout(),
        NapiField::IrqSuspendTimeoutNs => reply.get_irq_suspend_timeout(),
    };
    let why = "this kernel does not tell per-NAPI settings (Linux 6.13)";
    value.map_err(|_| io::Error::new(io::ErrorKind::Unsupported, why))
}

/// Changes a setting of a NAPI instance.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN, EOPNOTSUPP before Linux 6.13.
pub fn set_napi(id: u32, field: NapiField, value: u32) -> io::Result<()> {
    let mut socket = NetlinkSocket::new();
    let mut request = netdev::Request::new().op_napi_set_do();
    let encoder = request.encode().push_id(id);
    match field {
        NapiField::DeferHardIrqs => encoder.push_defer_hard_irqs(value),
        NapiField::GroFlushTimeoutNs => encoder.push_gro_flush_timeout(value),
        NapiField::IrqSuspendTimeoutNs => encoder.push_irq_suspend_timeout(value),
    };
    socket.request(&request)?.recv_ack().map_err(|error| copy(error.as_io_error()))
}

/// The library's error keeps the io::Error to itself; the code is what matters here.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_napi_and_a_missing_device_is_an_error() {
        match napis(1) {
            Ok(napis) => assert_eq!(napis, []),
            Err(error) => println!("skipped: no netdev family in this kernel: {error}"),
        }
        assert!(napis(u32::MAX >> 1).is_err());
        assert!(napi_setting(u32::MAX >> 1, NapiField::DeferHardIrqs).is_err());
    }
}
