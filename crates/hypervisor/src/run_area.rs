//! The area that a vCPU shares with the kernel (`struct kvm_run` and the data of port I/O), read in place.
//!
//! No reference to the whole structure is ever made: another thread may write its `immediate_exit` byte at any
//! time, which is sound only while everybody's view of that byte is atomic. So fields are read one by one
//! through raw pointers, and only the data of an I/O exit is lent out as a slice.

#![expect(unsafe_code, reason = "the shared area is raw memory that the kernel writes")]

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// Declares a reader of one member of the exit union, which copies it out.
macro_rules! exit_member {
    ($(#[$doc:meta])* $name:ident -> $type:ident) => {
        $(#[$doc])*
        pub(crate) fn $name(&self) -> kvm_bindings::$type {
            let run = self.run();
            // SAFETY: projects into the mapped structure without reading it.
            let member = unsafe { &raw const (*run).__bindgen_anon_1.$name };
            // SAFETY: the address is inside the mapping that the owner keeps. Every bit pattern is valid for
            // this type of integers, whichever member the kernel wrote; it writes only during `KVM_RUN`, which
            // needs the vCPU exclusively.
            unsafe { member.read() }
        }
    };
}

/// A view of a vCPU's shared area. Valid for as long as the `VcpuFd` it was taken from; the owner keeps both.
#[derive(Debug)]
pub(crate) struct RunArea {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the area belongs to the process, not to a thread; the kernel asks only that one thread at a time use
// the vCPU, which `&mut` on the owner ensures. The one byte others touch is accessed atomically.
unsafe impl Send for RunArea {}

/// The address of a vCPU's `immediate_exit` byte, for the kicker to keep under its lock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImmediateExit(NonNull<u8>);

// SAFETY: the byte is only ever accessed atomically; that it is still mapped is asked of each access.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    /// The byte as an atomic.
    ///
    /// # Safety
    /// The vCPU's area must stay mapped for `'a`.
    pub(crate) unsafe fn as_atomic<'a>(self) -> &'a AtomicU8 {
        // SAFETY: mapped for `'a` by the caller's promise, aligned because it is a byte, and never accessed but
        // through this method: see the module's description.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr()) }
    }
}

impl RunArea {
    /// Takes the view of the `bytes` that `fd` has mapped. From here on the owner must not use `fd`'s own access
    /// to the area (`run`, `get_kvm_run` and the synchronised registers).
    pub(crate) fn of(fd: &mut VcpuFd, bytes: usize) -> Self {
        let address = std::ptr::from_mut(fd.get_kvm_run()).expose_provenance();
        // The mapping came from outside Rust and is longer than `kvm_run`: the provenance wanted is the
        // mapping's, not that of the reference which told its address.
        let base = NonNull::new(std::ptr::with_exposed_provenance_mut(address))
            .expect("a reference is never null, so neither is its address");
        Self { base, bytes }
    }

    const fn run(&self) -> *const kvm_run {
        self.base.as_ptr().cast_const().cast()
    }

    pub(crate) fn immediate_exit(&self) -> ImmediateExit {
        // SAFETY: the offset is inside the mapping, which is at least as long as `kvm_run`.
        ImmediateExit(unsafe { self.base.add(offset_of!(kvm_run, immediate_exit)) })
    }

    /// Why the last `KVM_RUN` ended: a `KVM_EXIT_…` number.
    pub(crate) fn exit_reason(&self) -> u32 {
        // SAFETY: projects into the mapped structure without reading it.
        let reason = unsafe { &raw const (*self.run()).exit_reason };
        // SAFETY: inside the mapping, and written by the kernel only during `KVM_RUN`.
        unsafe { reason.read() }
    }

    exit_member!(/// Port I/O.
        io -> kvm_run__bindgen_ty_1__bindgen_ty_4);
    exit_member!(/// Memory-mapped I/O.
        mmio -> kvm_run__bindgen_ty_1__bindgen_ty_6);
    exit_member!(/// The guest could not be entered.
        fail_entry -> kvm_run__bindgen_ty_1__bindgen_ty_2);
    exit_member!(/// KVM could not go on.
        internal -> kvm_run__bindgen_ty_1__bindgen_ty_13);
    exit_member!(/// The guest asked for a change of the whole system.
        system_event -> kvm_run__bindgen_ty_1__bindgen_ty_19);
    exit_member!(/// A guest address had no memory behind it.
        memory_fault -> kvm_run__bindgen_ty_1__bindgen_ty_27);

    /// The `length` bytes at `offset` of the area; `None` when they are not inside it, or inside its first page,
    /// where no data of port I/O ever is.
    pub(crate) fn port_data(&mut self, offset: usize, length: usize) -> Option<&mut [u8]> {
        let end = offset.checked_add(length)?;
        if offset < size_of::<kvm_run>() || end > self.bytes {
            return None;
        }
        // SAFETY: `offset` was just seen to be inside the mapping.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: the bytes are mapped (checked above), belong to this vCPU alone behind `&mut self`, do not
        // overlap `kvm_run`, and the kernel leaves them alone until the next `KVM_RUN`, which needs `&mut` too.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) })
    }

    /// The first `length` bytes (8 at most) of the data of a memory-mapped I/O exit.
    pub(crate) fn mmio_data(&mut self, length: usize) -> Option<&mut [u8]> {
        let run: *mut kvm_run = self.base.as_ptr().cast();
        // SAFETY: projects into the mapped structure without reading it.
        let data = unsafe { &raw mut (*run).__bindgen_anon_1.mmio.data };
        // SAFETY: eight mapped bytes that are no part of any atomic; exclusive as in `port_data`.
        unsafe { &mut *data }.get_mut(..length)
    }
}
