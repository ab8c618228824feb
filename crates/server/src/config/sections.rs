//! All tables.

use super::model::ModelSettings;
use super::server::{AdminSettings, LimitSettings, LogSettings, ServerSettings, StoreSettings};
use super::setting::Section;

/// All tables, in the order of the file and of the flags.
pub(super) fn sections() -> [Section; 6] {
    [
        ServerSettings::section(),
        LimitSettings::section(),
        AdminSettings::section(),
        LogSettings::section(),
        StoreSettings::section(),
        ModelSettings::section(),
    ]
}
