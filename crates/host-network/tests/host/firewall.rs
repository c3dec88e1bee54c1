//! Our nftables table among others'.

use host_network::{HostNetwork, StartWarning, Teardown};
use serde_json::Value;

use crate::namespaces::{config, in_namespace, run};

fn rules(table: &str) -> Value {
    serde_json::from_str(&run(&format!("nft -j list table ip {table}"))).unwrap()
}

/// The table without the handles that change each time it is made.
fn shape(table: &str) -> String {
    run(&format!("nft list table ip {table}"))
}

#[test]
fn the_table_is_made_made_again_and_removed_beside_others() {
    in_namespace(async || {
        run("nft add table ip others");
        run("nft add chain ip others kept");
        let network = HostNetwork::start(config()).await.unwrap();
        let first = shape("procurator-br-test");
        for expected in [
            "iifname \"br-test\" oifname != \"br-test\" ip saddr != 10.100.0.0/16 drop",
            "ip saddr 10.100.0.0/16 ip daddr != 10.100.0.0/16 oifname != \"br-test\" masquerade",
            "type nat hook postrouting priority srcnat; policy accept;",
        ] {
            assert!(first.contains(expected), "no `{expected}` in {first}");
        }
        network.shutdown(Teardown::Keep).await.unwrap();
        run("nft add chain ip procurator-br-test stale");

        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(shape("procurator-br-test"), first);
        network.shutdown(Teardown::Remove).await.unwrap();
        assert_eq!(run("nft list tables"), "table ip others\n");
        assert!(rules("others").to_string().contains("kept"));
    });
}

#[test]
fn a_forward_chain_that_drops_is_warned_of() {
    in_namespace(async || {
        let network = HostNetwork::start(config()).await.unwrap();
        assert_eq!(network.report().warnings, []);
        network.shutdown(Teardown::Remove).await.unwrap();

        run("nft add table ip filter");
        let chain = "{ type filter hook forward priority 0 ; policy drop ; }";
        run(&format!("nft add chain ip filter FORWARD {chain}"));
        run("nft add chain ip filter DOCKER-USER");
        let network = HostNetwork::start(config()).await.unwrap();
        let [warning] = &network.report().warnings[..] else {
            panic!("one warning, not {:?}", network.report().warnings);
        };
        assert!(matches!(warning, StartWarning::ForwardDrop { .. }));
        assert!(
            warning.to_string().starts_with(
                "the chain ip filter FORWARD drops what it does not accept (chains of Docker are in that table)"
            ),
            "{warning}"
        );
    });
}
