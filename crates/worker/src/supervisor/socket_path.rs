//! Whether host programs can name the sockets by which they and a guest reach each other.
//!
//! The worker names them through the descriptor of their directory, for which no path is too long; a program that
//! connects to one, or listens on one, has to write its path into an address of the kernel's.

use std::path::Path;

/// Bytes of a path in a Unix socket's address, the NUL at its end left out (`unix(7)`).
const PATH_MAX: usize = 107;
/// What of a socket's path is below the VM's directory, with the longest port.
const LONGEST_NAME: &str = "vsock.sock_4294967295";
const SHORTEST_NAME: &str = "vsock.sock";

/// A warning where the paths of the sockets in `directory` are too long for an address.
pub(super) fn too_long(directory: &Path) -> Option<String> {
    let length = |name| directory.join(name).as_os_str().len();
    let longest = length(LONGEST_NAME);
    if longest <= PATH_MAX {
        return None;
    }
    let which = if length(SHORTEST_NAME) <= PATH_MAX { "sockets of high ports" } else { "sockets" };
    Some(format!(
        "$.vsock: programs cannot name the {which} in {} by their whole paths, which have up to {longest} bytes, where a \
         socket's address takes {PATH_MAX}; from within that directory they can, and so with a shorter state directory \
         or a shorter id",
        directory.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_measured_with_the_longest_name() {
        let directory = |length: usize| format!("/{}", "d".repeat(length - 1));
        assert_eq!(too_long(Path::new(&directory(85))), None);
        let high = too_long(Path::new(&directory(86))).expect("108 bytes with the longest port");
        assert!(high.contains("sockets of high ports") && high.contains("up to 108 bytes"), "{high}");
        assert!(too_long(Path::new(&directory(96))).expect("high ports").contains("high ports"));
        assert!(!too_long(Path::new(&directory(97))).expect("all of them").contains("high ports"));
    }
}
