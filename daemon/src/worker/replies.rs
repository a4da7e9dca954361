//! Prepared replies in pinned memory, with a right `Date` and without ever changing bytes in flight.
//!
//! Each variant of a prepared route (method, coding, keep-alive or close) has a few *blocks* of
//! pinned memory, each a whole reply as of one second. When the second changes, a block that no
//! send refers to is given the new date; where all are in flight another is made, up to a limit,
//! and past that the reply is copied. A connection that idles after its reply keeps its block
//! until its next request or its end, so the number of blocks in use is at most one a second of
//! the idle timeout.
//!
//! Pipelining clients get runs: a block which holds the same reply many times over, so that
//! sixteen pipelined hits are one send of one range.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use ember::AfterSent;
use ember_http::{Site, VariantId};
use ember_uring::{Payload, Piece, Pinned, Region};

/// Blocks of one variant at most; the reply is copied when all are in flight.
const BLOCKS_MAX: usize = 64;

/// Replies in a run, and the longest run worth its memory in bytes.
const RUN: u32 = 16;
const RUN_BYTES_MAX: usize = 8 * 1024;

/// Bodies above this are pinned once and sent behind a dated head; smaller ones are part of each
/// block, because one range is cheaper to send than two.
const BODY_INLINE_MAX: usize = 16 * 1024;

/// Why a prepared reply was copied instead of being sent from pinned memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallthrough {
    /// Every block of the variant is in flight.
    BlocksBusy,
    /// The pinned region is full.
    RegionFull,
}

/// The prepared replies of one thread.
pub(crate) struct Replies {
    site: Arc<Site>,
    region: Region,
    second: u64,
    date: [u8; ember_http::date::LEN],
    variants: Vec<Option<Box<Rendered>>>,
    fallthroughs: [u64; 2],
}

/// What there is in pinned memory of one variant.
#[derive(Default)]
struct Rendered {
    one: Blocks,
    run: Blocks,
    /// The body, where it is not part of the blocks.
    body: Option<Pinned>,
}

#[derive(Default)]
struct Blocks {
    blocks: Vec<Block>,
    current: usize,
}

struct Block {
    bytes: Pinned,
    second: u64,
}

impl Replies {
    /// Room for the replies of `site`.
    ///
    /// # Errors
    /// When the pinned region cannot be mapped.
    pub(crate) fn new(site: Arc<Site>) -> io::Result<Self> {
        let region = Region::new(region_size(&site))?;
        let mut variants = Vec::new();
        variants.resize_with(site.variant_count(), || None);
        let date = ember_http::date::format(0);
        Ok(Self { site, region, second: 0, date, variants, fallthroughs: [0; 2] })
    }

    /// The clock, in seconds since 1970; replies taken from now on carry this date.
    #[inline]
    pub(crate) fn set_clock(&mut self, second: u64) {
        if second != self.second {
            self.second = second;
            self.date = ember_http::date::format(second);
        }
    }

    /// The date of now, as it stands in a reply's head.
    pub(crate) fn date(&self) -> &[u8; ember_http::date::LEN] {
        &self.date
    }

    /// How often replies were copied, since the last call.
    pub(crate) fn take_fallthroughs(&mut self) -> impl Iterator<Item = (Fallthrough, u64)> + use<> {
        let [busy, full] = std::mem::take(&mut self.fallthroughs);
        [(Fallthrough::BlocksBusy, busy), (Fallthrough::RegionFull, full)].into_iter()
    }

    /// The route and the status of a variant.
    pub(crate) fn about(&self, variant: VariantId) -> (Option<ember_http::RouteId>, u16) {
        let variant = self.site.variant(variant);
        (variant.route(), variant.status())
    }

    /// Appends `count` replies of `variant` to what goes out; gives their length in bytes.
    #[inline]
    pub(crate) fn push(&mut self, variant: VariantId, count: u32, out: &mut Outgoing) -> usize {
        let before = out.len;
        if count == 1 {
            self.push_one(variant, out);
        } else {
            self.push_run(variant, count, out);
        }
        out.len - before
    }

    #[inline]
    fn push_one(&mut self, id: VariantId, out: &mut Outgoing) {
        if let Some(Some(rendered)) = self.variants.get(id.index())
            && let Some(block) = rendered.one.blocks.get(rendered.one.current)
            && block.second == self.second
            && rendered.body.is_none()
        {
            out.push(Piece::Pinned(block.bytes.clone()));
        } else {
            self.push_slowly(id, out);
        }
    }

    /// One reply of `variant` whose body is small, where pinned memory can be had for it.
    pub(crate) fn pinned(&mut self, variant: VariantId) -> Option<Pinned> {
        debug_assert!(self.len_of(variant) <= BODY_INLINE_MAX, "it is one range");
        self.block(variant, Shape::One)
    }

    /// The length of a reply in bytes.
    pub(crate) fn len_of(&self, variant: VariantId) -> usize {
        self.site.variant(variant).len()
    }

    fn push_run(&mut self, id: VariantId, count: u32, out: &mut Outgoing) {
        let len = self.site.variant(id).len();
        let mut left = count;
        if len * RUN as usize <= RUN_BYTES_MAX {
            while left > 1 {
                let now = left.min(RUN);
                let Some(run) = self.block(id, Shape::Run) else { break };
                out.push(Piece::Pinned(run.slice(..now as usize * len)));
                left -= now;
            }
        }
        for _ in 0..left {
            self.push_one(id, out);
        }
    }

    /// Renders what the current second lacks, or copies where there is no room.
    #[cold]
    fn push_slowly(&mut self, id: VariantId, out: &mut Outgoing) {
        let site = Arc::clone(&self.site);
        let variant = site.variant(id);
        let apart = variant.body().len() > BODY_INLINE_MAX;
        let Some(block) = self.block(id, Shape::One) else {
            return out.push(Piece::Owned(self.copied(id)));
        };
        if !apart {
            return out.push(Piece::Pinned(block));
        }
        let rendered = self.variants[id.index()].as_mut().expect("a block was just rendered");
        if rendered.body.is_none() {
            rendered.body = self.region.alloc_from(variant.body());
        }
        match &rendered.body {
            Some(body) => {
                out.push(Piece::Pinned(block));
                out.push(Piece::Pinned(body.clone()));
            }
            None => {
                self.fallthroughs[Fallthrough::RegionFull as usize] += 1;
                out.push(Piece::Owned(self.copied(id)));
            }
        }
    }

    fn copied(&self, id: VariantId) -> Vec<u8> {
        let variant = self.site.variant(id);
        let mut bytes = Vec::with_capacity(variant.len());
        bytes.extend_from_slice(variant.head());
        bytes.extend_from_slice(variant.body());
        bytes[at(variant.date_at())].copy_from_slice(&self.date);
        bytes
    }

    /// A block of this second, counted where there is none to be had.
    fn block(&mut self, id: VariantId, shape: Shape) -> Option<Pinned> {
        match self.find_block(id, shape) {
            Ok(block) => Some(block),
            Err(why) => {
                self.fallthroughs[why as usize] += 1;
                None
            }
        }
    }

    fn find_block(&mut self, id: VariantId, shape: Shape) -> Result<Pinned, Fallthrough> {
        let rendered = self.variants[id.index()].get_or_insert_default();
        let blocks = match shape {
            Shape::One => &mut rendered.one,
            Shape::Run => &mut rendered.run,
        };
        if let Some(block) = blocks.blocks.get(blocks.current)
            && block.second == self.second
        {
            return Ok(block.bytes.clone());
        }
        let variant = self.site.variant(id);
        if let Some(free) = blocks.blocks.iter().position(|b| b.bytes.is_unique()) {
            let block = &mut blocks.blocks[free];
            let bytes = block.bytes.get_mut().expect("no clone refers to a unique block");
            redate(bytes, variant, shape, &self.date);
            block.second = self.second;
            blocks.current = free;
            return Ok(block.bytes.clone());
        }
        if blocks.blocks.len() == BLOCKS_MAX {
            return Err(Fallthrough::BlocksBusy);
        }
        let mut bytes = self
            .region
            .alloc(shape.repeats() * unit_len(variant))
            .ok_or(Fallthrough::RegionFull)?;
        let fresh = bytes.get_mut().expect("a new block has one owner");
        for unit in fresh.chunks_exact_mut(unit_len(variant)) {
            let (head, body) = unit.split_at_mut(variant.head().len());
            head.copy_from_slice(variant.head());
            body.copy_from_slice(inline_body(variant));
        }
        redate(fresh, variant, shape, &self.date);
        blocks.current = blocks.blocks.len();
        blocks.blocks.push(Block { bytes: bytes.clone(), second: self.second });
        Ok(bytes)
    }
}

#[derive(Clone, Copy)]
enum Shape {
    One,
    Run,
}

impl Shape {
    fn repeats(self) -> usize {
        match self {
            Shape::One => 1,
            Shape::Run => RUN as usize,
        }
    }
}

fn inline_body(variant: &ember_http::Variant) -> &[u8] {
    if variant.body().len() > BODY_INLINE_MAX { &[] } else { variant.body() }
}

fn unit_len(variant: &ember_http::Variant) -> usize {
    variant.head().len() + inline_body(variant).len()
}

fn redate(
    bytes: &mut [u8],
    variant: &ember_http::Variant,
    shape: Shape,
    date: &[u8; ember_http::date::LEN],
) {
    let date_at = variant.date_at();
    let unit = unit_len(variant);
    for start in (0..shape.repeats()).map(|n| n * unit) {
        bytes[start..][at(date_at)].copy_from_slice(date);
    }
}

fn at(date_at: usize) -> Range<usize> {
    date_at..date_at + ember_http::date::LEN
}

/// Enough for every variant's blocks of a few seconds, and its body once. It is address space;
/// memory is what was written.
fn region_size(site: &Site) -> usize {
    const SECONDS: usize = 40;
    const SLACK: usize = 1 << 20;
    let of = |id: VariantId| {
        let variant = site.variant(id);
        let unit = unit_len(variant) + 128;
        let run = if variant.len() * RUN as usize <= RUN_BYTES_MAX { RUN as usize } else { 0 };
        variant.body().len() + unit * (SECONDS + 4 * run)
    };
    SLACK + site.variant_ids().map(of).sum::<usize>()
}

/// What is to be sent on one connection at the end of its batch.
#[derive(Default)]
pub(crate) struct Outgoing {
    pieces: Vec<Piece>,
    len: usize,
    /// Who wants to know when it is out.
    pub(crate) after_sent: AfterSent,
}

impl Outgoing {
    /// Appends a piece.
    #[inline]
    pub(crate) fn push(&mut self, piece: Piece) {
        self.len += piece.len();
        self.pieces.push(piece);
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Everything so far as one payload; empty afterwards.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Payload> {
        self.len = 0;
        if self.pieces.len() > 1 {
            return Some(Payload::from(std::mem::take(&mut self.pieces)));
        }
        self.pieces.pop().map(Payload::from)
    }
}
