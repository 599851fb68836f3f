#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::devices::twin_json(data));
