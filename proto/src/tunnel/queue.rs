//! Bytes that wait, in blocks: appending never moves what is there, and small pieces share a block.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    blocks: VecDeque<Vec<u8>>,
    /// Bytes of the first block that were taken.
    taken: usize,
    length: usize,
}

impl ByteQueue {
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        if let Some(block) = self.blocks.back_mut() {
            let room = (block.capacity() - block.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            block.extend_from_slice(now);
            bytes = later;
        }
        while !bytes.is_empty() {
            // The more bytes wait, the larger the next block.
            let capacity = bytes.len().max(self.length).clamp(MIN_BLOCK, MAX_BLOCK);
            let (now, later) = bytes.split_at(bytes.len().min(capacity));
            let mut block = Vec::with_capacity(capacity);
            block.extend_from_slice(now);
            self.blocks.push_back(block);
            bytes = later;
        }
    }

    /// The first bytes; empty only when nothing waits.
    pub(super) fn chunk(&self) -> &[u8] {
        self.blocks.front().map_or(&[], |block| &block[self.taken..])
    }

    /// Takes `count` bytes of [`Self::chunk`].
    pub(super) fn consume(&mut self, count: usize) {
        self.length -= count;
        self.taken += count;
        if self.blocks.front().is_some_and(|block| block.len() == self.taken) {
            self.blocks.pop_front();
            self.taken = 0;
        }
        if self.blocks.is_empty() {
            self.blocks = VecDeque::new();
        }
    }

    /// Moves the first `count` bytes, or all, to the end of `out`.
    pub(super) fn take_into(&mut self, mut count: usize, out: &mut Vec<u8>) {
        while count > 0 && !self.is_empty() {
            let chunk = self.chunk();
            let now = chunk.len().min(count);
            out.extend_from_slice(&chunk[..now]);
            self.consume(now);
            count -= now;
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

const MIN_BLOCK: usize = 256;
const MAX_BLOCK: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_whatever_the_pieces() {
        let mut queue = ByteQueue::default();
        let bytes: Vec<u8> = (0..200_000u32)
            .map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1])
            .collect();
        let (mut pushed, mut out, mut step) = (0, Vec::new(), 1);
        while out.len() < bytes.len() {
            let end = (pushed + step * 7 % 40_000).min(bytes.len());
            queue.push(&bytes[pushed..end]);
            pushed = end;
            queue.take_into(step * 13 % 30_000, &mut out);
            step += 37;
            assert_eq!(queue.len(), pushed - out.len());
        }
        assert!(out == bytes && queue.is_empty() && queue.chunk().is_empty());
    }

    #[test]
    fn small_pieces_share_blocks() {
        let mut queue = ByteQueue::default();
        for _ in 0..100_000 {
            queue.push(b"a");
        }
        assert!(queue.blocks.len() < 20, "{}", queue.blocks.len());
    }
}
