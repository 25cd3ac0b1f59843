//! The path of a service, which server owns the path, and connecting to it.

pub mod activation;
pub mod endpoint;
pub mod path;
pub mod route;
