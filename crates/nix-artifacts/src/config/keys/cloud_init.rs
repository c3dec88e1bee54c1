//! Keys about what the guest's cloud-init is told: members of `procurator.cloud_init`.

use vm_model::CLOUD_INIT_BYTES_MAX;

use super::{KeyRule, ValueKind};
use ValueKind::{Boolean, Section};

const CONTENT: ValueKind = ValueKind::Secret { most: CLOUD_INIT_BYTES_MAX };
const TEXT: ValueKind = ValueKind::Text { most: CLOUD_INIT_BYTES_MAX };
/// Four characters for each three bytes that were begun.
const BASE64: ValueKind = ValueKind::Text { most: CLOUD_INIT_BYTES_MAX.div_ceil(3) * 4 };
const VALUE_NOTE: &str = "The text, as if it stood in the object's place.";
const BASE64_NOTE: &str = "The content in Base64, with padding; at most 65536 bytes of it. May be compressed by gzip, which \
                           cloud-init undoes.";
const FILE_NOTE: &str = "Absolute path of a file of the host that has the content, at most 65536 bytes, below a directory \
                         that the worker's settings allow. Read when the machine is started.";

/// The rows.
#[rustfmt::skip]
pub(super) static KEYS: &[KeyRule] = &[
    KeyRule::supported("procurator.cloud_init", Section,
        "What the guest's cloud-init is told, by its data source NoCloud: a read-only disk with the label `CIDATA` and the \
         `id` `cloud-init`, behind all others. Default: there is no such disk."),
    KeyRule::supported("procurator.cloud_init.user_data", CONTENT,
        "What the VM's user wants: `#cloud-config`, a script, or another form of cloud-init. Has one content. Default: empty."),
    KeyRule::supported("procurator.cloud_init.user_data.value", TEXT, VALUE_NOTE),
    KeyRule::supported("procurator.cloud_init.user_data.base64", BASE64, BASE64_NOTE),
    KeyRule::supported("procurator.cloud_init.user_data.file", ValueKind::Text { most: 4095 }, FILE_NOTE),
    KeyRule::supported("procurator.cloud_init.vendor_data", CONTENT,
        "The same by whoever runs the host; user data takes precedence in the guest. Default: none."),
    KeyRule::supported("procurator.cloud_init.vendor_data.value", TEXT, VALUE_NOTE),
    KeyRule::supported("procurator.cloud_init.vendor_data.base64", BASE64, BASE64_NOTE),
    KeyRule::supported("procurator.cloud_init.vendor_data.file", ValueKind::Text { most: 4095 }, FILE_NOTE),
    KeyRule::supported("procurator.cloud_init.meta_data", ValueKind::NamedTexts { most: CLOUD_INIT_BYTES_MAX },
        "Further meta-data, like `public-keys`; `local-hostname` in place of the VM's id. `instance-id` is the worker's. \
         Default: none."),
    KeyRule::supported("procurator.cloud_init.network", Boolean,
        "`true`: the disk says the addresses, router, name servers and MTU of the VM's interfaces; `false`: cloud-init has \
         the guest ask by DHCP. Default: true."),
];
