//! What happens when the time of a connection is over.

use ember_http::Phase;
use ember_uring::{Delivery, Driver, Errno, Sock, Then};

use super::super::outflow::Verdict;
use super::super::tally::Closed;
use super::super::timers::Tick;
use super::{NO_LISTENER, Stage, Thread, ticks_of};
use crate::boot::Order;

impl<D: Driver> Thread<D> {
    /// Looks at the deadlines that have come up, and at the drain's.
    pub(super) fn tick(&mut self) {
        let now = self.tick_now();
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(now, &mut due);
        for slot in due.drain(..) {
            let connection = &mut self.connections[slot as usize];
            let Some(sock) = connection.sock else { continue };
            if connection.deadline > now {
                connection.wakes = connection.deadline;
                self.wheel.set(slot, connection.deadline);
            } else if connection.outflow.is_open() && connection.listener != NO_LISTENER {
                // A silent send may be out or stuck.
                connection.wakes = Tick::MAX; // it is not in the wheel
                self.driver.delivery(sock);
            } else {
                self.timed_out(sock);
            }
        }
        self.due = due;
        if let Order::Drain { idle_at, .. } = self.order
            && !self.idle_closed
            && self.now >= idle_at
        {
            self.idle_closed = true;
            self.close_idle();
        }
    }

    /// The kernel has told what became of a reply whose time was over.
    pub(super) fn told(&mut self, sock: Sock, delivery: Result<Delivery, Errno>) {
        let now_ms = self.now_ms();
        let connection = &mut self.connections[sock.slot() as usize];
        let asked = connection.sock == Some(sock) && connection.wakes == Tick::MAX;
        if !asked || !connection.outflow.is_open() {
            return; // the connection has gone on meanwhile
        }
        let site = self.sites.site_of(usize::from(connection.listener));
        let verdict = match delivery {
            Ok(delivery) => connection.outflow.judge(delivery, site.limits(), now_ms),
            Err(Errno::EAGAIN) => Verdict::Going(1),
            Err(_) => Verdict::Stalled,
        };
        let stage = connection.stage;
        match (verdict, stage) {
            (Verdict::Going(ms), _) => self.set_deadline(sock, ticks_of(ms)),
            (Verdict::Stalled, _) => {
                if let Stage::Dispatched(task) = stage {
                    self.cancel(task);
                }
                self.close(sock, Closed::Timeout);
            }
            (Verdict::Out { late }, Stage::Open) => {
                let idle = connection.conn.phase() == Phase::Idle;
                match connection.conn.time_left(site, now_ms) {
                    _ if idle && self.idle_closed => self.close(sock, Closed::Drain),
                    // Its idle time begins when the reply is out.
                    Some(0) if idle && late => {
                        let idle = ticks_of(site.limits().idle_ms_max);
                        self.set_deadline(sock, idle);
                    }
                    Some(left) if left > 0 => self.set_deadline(sock, ticks_of(left)),
                    _ => self.timed_out(sock),
                }
            }
            // The end of the send is about to be reported.
            (Verdict::Out { .. }, Stage::Lingering { receiving: false }) => {
                let linger = self.linger_ticks(sock);
                self.set_deadline(sock, linger);
            }
            (Verdict::Out { .. }, Stage::Dispatched(_) | Stage::Flushing { .. }) => {
                let write = self.write_ticks(sock);
                self.set_deadline(sock, write);
            }
            (Verdict::Out { .. }, _) => self.timed_out(sock),
        }
    }

    fn timed_out(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        match connection.stage {
            Stage::Open => self.refuse_for_time(sock, true),
            Stage::Dispatched(task) => self.task_timed_out(task, sock),
            Stage::Flushing { .. } => self.close(sock, Closed::Timeout),
            // Its handle was dropped, and its peer does not read.
            Stage::Client(_) => self.driver.close(sock),
            Stage::Closing | Stage::Lingering { .. } => {
                connection.stage = Stage::Closing;
                self.driver.close(sock);
            }
            Stage::Free => {}
        }
    }

    /// What was to come has not come in time: says so where a request has begun.
    pub(in super::super) fn refuse_for_time(&mut self, sock: Sock, receiving: bool) {
        let now_ms = self.now_ms();
        let connection = &mut self.connections[sock.slot() as usize];
        let idle = connection.conn.phase() == Phase::Idle;
        let served = connection.conn.served() > 0;
        let index = self.sites.of_listener(usize::from(connection.listener));
        let site = &self.sites.all()[index];
        let refusal = connection.conn.handle_timeout(site, now_ms);
        let one = self.sites.one_reply(usize::from(connection.listener)).is_some();
        // Where there is but one reply nothing else is ever said.
        match refusal.filter(|_| !one) {
            Some(refusal) => {
                self.desk(index, sock).refuse(&refusal, &[]);
                let stage = Stage::Lingering { receiving };
                let linger = self.linger_ticks(sock);
                self.set_closing(sock, stage, Closed::Timeout, linger);
                if let Some(payload) = self.out.take() {
                    self.send(sock, payload, Then::Shutdown);
                }
            }
            None if idle && served => self.close(sock, Closed::Idle),
            None => self.close(sock, Closed::Timeout),
        }
    }

    fn close_idle(&mut self) {
        for slot in 0..self.connections.len() {
            let connection = &self.connections[slot];
            if let Some(sock) = connection.sock
                && connection.stage == Stage::Open
                && connection.conn.phase() == Phase::Idle
            {
                if connection.outflow.is_open() {
                    self.wheel.remove(sock.slot());
                    self.connections[slot].wakes = Tick::MAX;
                    self.driver.delivery(sock); // a reply under way is not cut off
                } else {
                    self.close(sock, Closed::Drain);
                }
            }
        }
    }
}
