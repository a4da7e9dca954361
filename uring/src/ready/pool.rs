//! Receive buffers of drivers whose kernel side does not pick them.

use crate::Buffer;
use crate::driver::next_driver_id;

/// A stack of buffers, each allocated when it is first needed.
pub(crate) struct Pool {
    driver: u16,
    size: usize,
    buffers: Vec<Box<[u8]>>,
    free: Vec<u16>,
}

impl Pool {
    pub(crate) fn new(count: u16, size: u32) -> Pool {
        let buffers = (0..count).map(|_| Box::default()).collect();
        let free = (0..count).rev().collect();
        Pool { driver: next_driver_id(), size: size as usize, buffers, free }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// How many buffers nobody has.
    pub(crate) fn available(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self) -> Option<Buffer> {
        let id = self.free.pop()?;
        let memory = &mut self.buffers[usize::from(id)];
        if memory.is_empty() {
            *memory = vec![0; self.size].into_boxed_slice();
        }
        Some(Buffer { driver: self.driver, id, offset: 0, len: 0 })
    }

    pub(crate) fn memory(&mut self, buffer: &Buffer) -> &mut [u8] {
        &mut self.buffers[usize::from(buffer.id)]
    }

    pub(crate) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        assert_eq!(buffer.driver, self.driver, "a buffer of another driver");
        &self.buffers[usize::from(buffer.id)][..buffer.len as usize]
    }

    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        assert_eq!(buffer.driver, self.driver, "a buffer of another driver");
        self.free.push(buffer.id);
    }
}
