//! stub
use crate::error::StoreError;
use std::path::Path;
pub(super) fn check(_database: &Path) -> Result<(), StoreError> {
    Ok(())
}
