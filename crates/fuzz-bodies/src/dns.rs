//! Questions that reach the name server from a guest, and what may be an answer to them (RFC 1035).

use std::net::Ipv4Addr;

use host_network::dhcp::{Binding, Bindings};
use host_network::fuzzing::dns_exchange;
use vm_model::{MacAddress, VmId};

use crate::input::Input;

/// The longest answer of our own: a name of 255 bytes, and who is in charge of the domain.
const ANSWER_BYTES: usize = 512;

/// A question, and what comes back for it.
pub(crate) fn messages(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (id, length) = (input.word(), input.word());
    let question = input.piece(usize::from(length));
    let mut bindings = Bindings::default();
    let binding = Binding {
        vm: VmId::new("web-1"),
        nic: "net0".to_owned(),
        address: Ipv4Addr::new(10, 100, 0, 2),
        mask: None,
        mtu: None,
    };
    bindings.insert(MacAddress::new([2, 0x50, 10, 100, 0, 2]), binding).expect("the first one");
    let Some((known, _)) = dns_exchange(&bindings, question, input.rest(), id) else { return };
    if let Some(known) = known {
        assert!(known.len() <= ANSWER_BYTES, "{} bytes", known.len());
        let number = u16::from_be_bytes([known[0], known[1]]);
        let (_, is_answer) = dns_exchange(&bindings, question, &known, number).expect("it was a question");
        assert!(is_answer, "our own answers are answers");
    }
}
