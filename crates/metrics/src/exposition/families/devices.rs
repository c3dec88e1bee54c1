//! Series about a VM's interfaces and disks.

use vm_model::DiskLatency;

use super::kind::{BYTES, Family, Kind, SECONDS, Sample, Value};
use super::{VmFigures, each};
use crate::{DiskMetrics, NicMetrics};

use Kind::{Counter, Gauge, Histogram};

pub(super) const FAMILIES: &[Family<VmFigures>] = &[
    Family::new("vm_network_receive", Counter, BYTES, "Bytes that the guest received", |vm| {
        each_nic(vm, |nic| nic.receive_bytes)
    }),
    Family::new("vm_network_transmit", Counter, BYTES, "Bytes that the guest sent", |vm| {
        each_nic(vm, |nic| nic.transmit_bytes)
    }),
    Family::new("vm_network_receive_frames", Counter, None, "Frames that the guest received", |vm| {
        each_nic(vm, |nic| nic.receive_frames)
    }),
    Family::new("vm_network_transmit_frames", Counter, None, "Frames that the guest sent", |vm| {
        each_nic(vm, |nic| nic.transmit_frames)
    }),
    Family::new(
        "vm_network_receive_dropped",
        Counter,
        None,
        "Frames for the guest that it did not get",
        |vm| each_nic(vm, |nic| nic.receive_dropped),
    ),
    Family::new(
        "vm_network_transmit_dropped",
        Counter,
        None,
        "Frames of the guest that the host did not take",
        |vm| each_nic(vm, |nic| nic.transmit_dropped),
    ),
    Family::new("vm_disk_read", Counter, BYTES, "Bytes that the guest read", |vm| {
        each_disk(vm, |disk| disk.read_bytes)
    }),
    Family::new("vm_disk_written", Counter, BYTES, "Bytes that the guest wrote", |vm| {
        each_disk(vm, |disk| disk.written_bytes)
    }),
    Family::new("vm_disk_read_operations", Counter, None, "Reads completed", |vm| {
        each_disk(vm, |disk| disk.read_operations)
    }),
    Family::new("vm_disk_write_operations", Counter, None, "Writes completed", |vm| {
        each_disk(vm, |disk| disk.write_operations)
    }),
    Family::new("vm_disk_flush_operations", Counter, None, "Flushes completed", |vm| {
        each_disk(vm, |disk| disk.flush_operations)
    }),
    Family::new("vm_disk_erase_operations", Counter, None, "Discards and zeroings completed", |vm| {
        each_disk(vm, |disk| disk.erase_operations)
    }),
    Family::new(
        "vm_volume_allocated",
        Gauge,
        BYTES,
        "What a volume takes of the host's disk, with all that is kept of it",
        |vm| {
            let volumes = vm.volumes.iter();
            volumes.map(|(disk, taken)| (vec![("disk", disk.clone())], taken.get().into())).collect()
        },
    ),
    Family::new("vm_disk_errors", Counter, None, "Requests to a disk that failed", |vm| {
        each_disk(vm, |disk| disk.errors)
    }),
    Family::new(
        "vm_disk_kept_requests",
        Counter,
        None,
        "Requests that the host could not carry out at first, kept and tried again",
        |vm| each_disk(vm, |disk| disk.kept_requests),
    ),
    Family::new(
        "vm_disk_stalls",
        Counter,
        None,
        "How often a disk was stopped because the host could not carry out a request",
        |vm| each_disk(vm, |disk| disk.troubles),
    ),
    Family::new("vm_disk_stalled", Counter, SECONDS, "How long a disk was stopped for that", |vm| {
        each_disk(vm, |disk| disk.trouble_time.as_secs_f64())
    }),
    Family::new(
        "vm_disk_request_duration",
        Histogram,
        SECONDS,
        "How long requests took, from the guest's doorbell to the answer",
        |vm| {
            let disks = vm.metrics.iter().flat_map(|metrics| &metrics.disks);
            let requests = disks.flat_map(|disk| {
                let DiskLatency { read, write, flush } = disk.latency;
                [("read", read), ("write", write), ("flush", flush)].map(|(request, counts)| {
                    (vec![("disk", disk.id.clone()), ("request", request.to_owned())], counts.into())
                })
            });
            requests.collect()
        },
    ),
];

fn each_nic(vm: &VmFigures, read: fn(&NicMetrics) -> u64) -> Vec<Sample> {
    let nics = vm.metrics.iter().flat_map(|metrics| &metrics.nics);
    each("device", nics.map(|nic| (nic.id.clone(), read(nic))))
}

fn each_disk<T: Into<Value>>(vm: &VmFigures, read: fn(&DiskMetrics) -> T) -> Vec<Sample> {
    let disks = vm.metrics.iter().flat_map(|metrics| &metrics.disks);
    each("disk", disks.map(|disk| (disk.id.clone(), read(disk))))
}
