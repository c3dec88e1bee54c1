//! Attaching and detaching over and over; alone in its program, so that its descriptors can be counted.

#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail by panic")]

#[path = "namespaces/mod.rs"]
mod namespaces;

use std::fs;

use host_network::{HostNetwork, Teardown};
use namespaces::{config, in_namespace, link_names, nic};

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn two_hundred_cycles_end_where_they_began() {
    in_namespace(async || {
        let at_first = open_descriptors();
        let network = HostNetwork::start(config()).await.unwrap();
        // The network is looked at once more after it was set up, which takes pipes to `nft`.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let descriptors = open_descriptors();
        let links = link_names();
        for cycle in 0..200_u8 {
            let attachment = nic(2 + cycle % 5);
            let vm = attachment.vm.clone();
            let tap = network.attach(attachment).await.unwrap();
            // Sometimes the VM goes first, sometimes the link.
            if cycle % 2 == 0 {
                drop(tap);
                network.detach(&vm, "net0").await.unwrap();
            } else {
                network.detach(&vm, "net0").await.unwrap();
            }
        }
        namespaces::eventually("descriptors are what they were", async || {
            (open_descriptors() == descriptors).then_some(())
        })
        .await;
        assert_eq!(link_names(), links);
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(link_names(), ["lo"]);
        namespaces::eventually("every descriptor is closed", async || {
            (open_descriptors() <= at_first).then_some(())
        })
        .await;
    });
}
