//! What a decision of the allowlist costs, by the number of prefixes that it holds.
//!
//! The point is the comparison down the column: the cost must not grow with the list. Cache misses
//! do grow with the memory that is touched, so each size is asked for one hot address and for
//! addresses all over.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run panics"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use epmd_guard::policy::PrefixTable;
use ipnet::IpNet;

const SIZES: [u32; 4] = [1, 1_000, 100_000, 1_000_000];

/// A plain sequence of well mixed numbers (splitmix64), the same in every run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn v4(number: u64) -> IpAddr {
    Ipv4Addr::from(u32::try_from(number >> 32).unwrap()).into()
}

fn v6(number: u64) -> IpAddr {
    // Documentation addresses, spread over their whole /32.
    Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number) << 32).into()
}

fn table(size: u32, address: fn(u64) -> IpAddr, lengths: std::ops::RangeInclusive<u8>) -> PrefixTable {
    let span = u64::from(lengths.end() - lengths.start() + 1);
    let nets = numbers(1).zip(0..size).map(|(number, value)| {
        let length = lengths.start() + u8::try_from(number % span).unwrap();
        (IpNet::new(address(number), length).unwrap(), value)
    });
    PrefixTable::new(nets)
}

fn lookups(c: &mut Criterion, name: &str, address: fn(u64) -> IpAddr, lengths: std::ops::RangeInclusive<u8>) {
    let mut group = c.benchmark_group(name);
    for size in SIZES {
        let table = table(size, address, lengths.clone());
        let spread: Vec<IpAddr> = numbers(7).take(4096).map(address).collect();
        let hot = spread[0];
        group.bench_with_input(BenchmarkId::new("hot", size), &table, |b, table| {
            b.iter(|| table.lookup(black_box(hot)));
        });
        group.bench_with_input(BenchmarkId::new("spread", size), &table, |b, table| {
            let mut at = spread.iter().cycle();
            b.iter(|| table.lookup(black_box(*at.next().unwrap())));
        });
    }
    group.finish();
}

fn prefixes(c: &mut Criterion) {
    lookups(c, "ipv4", v4, 12..=32);
    lookups(c, "ipv6", v6, 40..=96);
}

criterion_group!(benches, prefixes);
criterion_main!(benches);
