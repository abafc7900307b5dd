//! The memory that the ranks of one host share: what lies where, and who may touch it when.
//!
//! ```text
//! Header | Control of rank 0 .. t-1 | slots: rank 0 even, rank 0 odd, rank 1 even, ..
//! ```
//!
//! All that ranks signal with is atomic, so it may be looked at any time, whatever the other side does. The slots
//! are plain memory that changes hands by the rounds of [`super::shared`]: see [`Region::slot`]. The memory is on
//! the heap for threads and a mapped segment for processes; nothing else differs.

#![expect(unsafe_code, reason = "memory shared with other threads and processes is raw memory")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::shm;

use super::CollectiveError;
use super::address::Token;
use super::liveness::ProcessId;

/// Bytes that one rank can bring to one round.
pub(super) const SLOT_BYTES: usize = 256 << 10;

/// "GLINTSHM", and a version that is bumped whenever anything in this file moves.
const MAGIC: u64 = u64::from_le_bytes(*b"GLINTSHM");
const VERSION: u32 = 1;

const PAGE_BYTES: usize = 4096;

/// What a segment says about itself, so that a stale or foreign one is refused.
#[repr(C, align(256))]
struct Header {
    /// Written last: a segment without it is not finished.
    magic: AtomicU64,
    version: AtomicU32,
    world_size: AtomicU32,
    slot_bytes: AtomicU64,
    epoch: AtomicU64,
    token: [AtomicU64; 2],
}

/// What one rank tells the others. Only that rank writes here, `sleepers` excepted.
#[repr(C, align(256))]
pub(super) struct Control {
    /// The last round whose slot this rank has filled. Wraps around. The others sleep on it.
    pub(super) round: AtomicU32,
    /// How many ranks sleep on `round`.
    pub(super) sleepers: AtomicU32,
    /// See [`State`].
    pub(super) state: AtomicU32,
    /// With `State::FAILED`, the rank that is to blame.
    pub(super) culprit: AtomicU32,
    pid: AtomicU32,
    started_ticks: AtomicU64,
    namespace: AtomicU64,
    /// What the rank calls in even and in odd rounds.
    pub(super) calls: [SharedCall; 2],
}

/// A [`super::RawCall`] in shared memory.
#[repr(C)]
pub(super) struct SharedCall {
    pub(super) kind: AtomicU32,
    pub(super) root: AtomicU32,
    pub(super) len: AtomicU64,
}

/// The values of [`Control::state`]; zero, as fresh memory is, means that no rank has come yet.
pub(super) struct State;

impl State {
    const EMPTY: u32 = 0;
    pub(super) const CLAIMED: u32 = 1;
    pub(super) const ATTACHED: u32 = 2;
    pub(super) const LEFT: u32 = 3;
    pub(super) const FAILED: u32 = 4;
}

impl Control {
    /// Takes the place of this rank; `false` if another has it.
    pub(super) fn attach(&self, process: ProcessId) -> bool {
        let claimed = self.state.compare_exchange(
            State::EMPTY,
            State::CLAIMED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if claimed.is_err() {
            return false;
        }
        self.pid.store(process.pid, Ordering::Relaxed);
        self.started_ticks.store(process.started_ticks, Ordering::Relaxed);
        self.namespace.store(process.namespace, Ordering::Relaxed);
        self.state.store(State::ATTACHED, Ordering::Release);
        true
    }

    /// Returns the process of this rank; meaningful once it is attached.
    pub(super) fn process(&self) -> ProcessId {
        ProcessId {
            pid: self.pid.load(Ordering::Relaxed),
            started_ticks: self.started_ticks.load(Ordering::Relaxed),
            namespace: self.namespace.load(Ordering::Relaxed),
        }
    }
}

enum Backing {
    Heap(Layout),
    Mapped { bytes: usize },
}

/// Memory of [`region_bytes`] bytes, page-aligned, that lives as long as this value.
pub(super) struct Region {
    base: NonNull<u8>,
    world_size: usize,
    backing: Backing,
}

// SAFETY: `base` stays valid until drop, which runs once. What lies there is either atomic or a slot, and a slot is
// only reached through the unsafe methods below, whose callers promise that nobody writes what another reads.
unsafe impl Send for Region {}
// SAFETY: as for Send.
unsafe impl Sync for Region {}

fn region_bytes(world_size: usize) -> usize {
    let bytes =
        size_of::<Header>() + world_size * size_of::<Control>() + world_size * 2 * SLOT_BYTES;
    bytes.next_multiple_of(PAGE_BYTES)
}

impl Region {
    /// Allocates memory for threads.
    pub(super) fn heap(world_size: usize) -> Arc<Self> {
        let layout = Layout::from_size_align(region_bytes(world_size), PAGE_BYTES)
            .expect("a few MB, aligned to a power of two");
        // SAFETY: the layout is not empty: there is a header at least.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { std::alloc::handle_alloc_error(layout) };
        Arc::new(Self { base, world_size, backing: Backing::Heap(layout) })
    }

    /// Makes the segment `name` for processes; `name` must be new.
    pub(super) fn create(
        name: &str,
        world_size: usize,
        epoch: u64,
        token: Token,
    ) -> Result<Arc<Self>, CollectiveError> {
        let bytes = region_bytes(world_size);
        let failed = |error: rustix::io::Errno| {
            CollectiveError::system(
                format!("make the shared memory segment {name} of {bytes} bytes in /dev/shm"),
                error,
            )
        };
        let mode = shm::Mode::RUSR | shm::Mode::WUSR;
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let segment = shm::open(name, flags, mode).map_err(failed)?;
        // Reserved, not just sized: a full /dev/shm is an error here and a SIGBUS later.
        let reserved = rustix::fs::fallocate(&segment, FallocateFlags::empty(), 0, bytes as u64);
        let region = reserved.and_then(|()| Self::map(&segment, world_size)).map_err(|error| {
            unlink(name);
            failed(error)
        })?;
        let header = region.header();
        header.version.store(VERSION, Ordering::Relaxed);
        header.world_size.store(world_size as u32, Ordering::Relaxed);
        header.slot_bytes.store(SLOT_BYTES as u64, Ordering::Relaxed);
        header.epoch.store(epoch, Ordering::Relaxed);
        for (place, half) in header.token.iter().zip(token.halves()) {
            place.store(half, Ordering::Relaxed);
        }
        header.magic.store(MAGIC, Ordering::Release);
        Ok(Arc::new(region))
    }

    /// Opens the segment `name` that another process made; the error says in words what does not fit.
    pub(super) fn open(
        name: &str,
        world_size: usize,
        epoch: u64,
        token: Token,
    ) -> Result<Arc<Self>, String> {
        let segment = shm::open(name, shm::OFlags::RDWR, shm::Mode::empty())
            .map_err(|error| format!("its segment cannot be opened ({error})"))?;
        let bytes = fs::File::from(segment.try_clone().map_err(|error| error.to_string())?)
            .metadata()
            .map_err(|error| error.to_string())?
            .len();
        // Before anything is read: beyond the end of a segment there is only SIGBUS.
        if bytes != region_bytes(world_size) as u64 {
            return Err(format!(
                "its segment has {bytes} bytes, a group of {world_size} ranks has {}",
                region_bytes(world_size)
            ));
        }
        let region = Self::map(&segment, world_size).map_err(|error| error.to_string())?;
        let header = region.header();
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err("its segment is not one of glint's".to_owned());
        }
        let version = header.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(format!("its segment has version {version}, this binary has {VERSION}"));
        }
        let theirs = header.world_size.load(Ordering::Relaxed);
        let slot_bytes = header.slot_bytes.load(Ordering::Relaxed);
        if theirs as usize != world_size || slot_bytes != SLOT_BYTES as u64 {
            return Err(format!("it has {theirs} ranks, this one expects {world_size}"));
        }
        let theirs = header.epoch.load(Ordering::Relaxed);
        if theirs != epoch {
            return Err(format!("it is of epoch {theirs}, this rank is of epoch {epoch}"));
        }
        let token_fits = header
            .token
            .iter()
            .zip(token.halves())
            .all(|(place, half)| place.load(Ordering::Relaxed) == half);
        if !token_fits {
            return Err("it has another token".to_owned());
        }
        Ok(Arc::new(region))
    }

    fn map(segment: &OwnedFd, world_size: usize) -> rustix::io::Result<Self> {
        let bytes = region_bytes(world_size);
        // SAFETY: a new mapping at an address the kernel chooses overlaps no memory of ours.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                segment,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).expect("mmap without MAP_FIXED never maps page 0");
        Ok(Self { base, world_size, backing: Backing::Mapped { bytes } })
    }

    /// Returns how many ranks share the region.
    pub(super) fn world_size(&self) -> usize {
        self.world_size
    }

    fn header(&self) -> &Header {
        // SAFETY: the region begins, page-aligned, with a header, which consists of atomics only: any bits are
        // valid and anybody may write them meanwhile.
        unsafe { self.base.cast::<Header>().as_ref() }
    }

    /// Returns what `rank` tells the others.
    pub(super) fn control(&self, rank: usize) -> &Control {
        assert!(rank < self.world_size, "rank {rank} of {}", self.world_size);
        // SAFETY: `world_size` controls follow the header, whose size is a multiple of their alignment; they are
        // atomics only, as above.
        unsafe { self.base.add(size_of::<Header>()).cast::<Control>().add(rank).as_ref() }
    }

    /// The first byte of the slot that `rank` fills in rounds of this `parity`.
    ///
    /// A slot belongs to its rank from the moment when all ranks have published the round before, until it
    /// publishes the round; then it is everybody's to read until they publish the next round. `super::shared`
    /// keeps to this and proves it.
    fn slot(&self, rank: usize, parity: usize) -> NonNull<u8> {
        assert!(rank < self.world_size && parity < 2, "slot {parity} of rank {rank}");
        let before = size_of::<Header>() + self.world_size * size_of::<Control>();
        // SAFETY: `2 * world_size` slots follow the controls, and the asserted indices are below that.
        unsafe { self.base.add(before + (rank * 2 + parity) * SLOT_BYTES) }
    }

    /// Copies `bytes`, at most [`SLOT_BYTES`], into a slot.
    ///
    /// # Safety
    /// The slot is this rank's to write (see [`Region::slot`]).
    pub(super) unsafe fn fill(&self, rank: usize, parity: usize, bytes: &[u8]) {
        assert!(bytes.len() <= SLOT_BYTES, "{} bytes do not fit into a slot", bytes.len());
        // SAFETY: the length was checked; `bytes` is a Rust slice, which a slot never overlaps unless it came from
        // `read`, and then it would be a slot that is read now, not one to write.
        unsafe {
            self.slot(rank, parity)
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len())
        }
    }

    /// Returns the first `len` bytes of a slot, aligned for any number.
    ///
    /// # Safety
    /// The slot is everybody's to read (see [`Region::slot`]) for as long as the slice is used.
    pub(super) unsafe fn read(&self, rank: usize, parity: usize, len: usize) -> &[u8] {
        assert!(len <= SLOT_BYTES, "a slot has no {len} bytes");
        // SAFETY: the length was checked, slots are initialised (zero at first), and nobody writes meanwhile.
        unsafe { NonNull::slice_from_raw_parts(self.slot(rank, parity), len).as_ref() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match self.backing {
            // SAFETY: allocated by `heap` with this layout; the last reference is going.
            Backing::Heap(layout) => unsafe { dealloc(self.base.as_ptr(), layout) },
            Backing::Mapped { bytes } => {
                // SAFETY: mapped by `map` with this length; the last reference is going.
                let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), bytes) };
                debug_assert!(unmapped.is_ok(), "{unmapped:?}");
            }
        }
    }
}

/// Takes the name of a segment away; processes that have it mapped keep it.
pub(super) fn unlink(name: &str) {
    if let Err(error) = shm::unlink(name)
        && error != rustix::io::Errno::NOENT
    {
        tracing::warn!(name, %error, "a shared memory segment keeps its name");
    }
}
