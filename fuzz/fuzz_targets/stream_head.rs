#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cloudstream::readers::head(data));
