//! The path of a service, and which server owns the path.

pub mod activation;
pub mod endpoint;
pub mod path;
pub mod route;
