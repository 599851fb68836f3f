//! Tests of the formats.

mod codec;
mod connect;
mod upgrade;
