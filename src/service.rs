//! Where a service lives, and who owns its path.

pub mod activation;
pub mod endpoint;
pub mod path;
pub mod route;
