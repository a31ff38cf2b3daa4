//! Every instruction set against plain arithmetic, lane by lane.

use std::vec::Vec;

use hyperion_primitives::Mix;

use super::{Lanes, Lookup16, half, portable::Portable, scale};
use crate::{round::wide, table};

fn check<L: Lanes>(l: L) {
    let mut mix = Mix::new(7);
    let padded: Vec<u16> = table::GELU.iter().copied().chain([9]).collect();
    for round in 0..2000_u32 {
        let mut draw = |bits| -> Vec<i32> { (0..L::WIDTH).map(|_| mix.i32(bits)).collect() };
        let (x, y, shifts) = (draw(1 + round % 31), draw(31), draw(6));
        let small = draw(round % 31);
        let m: Vec<i32> = draw(30).into_iter().map(i32::abs).collect();
        let (a, b, c) = (l.load(&x), l.load(&y), l.load(&shifts));
        let lanes = |word: L::Word| {
            let mut out = [0; 16];
            l.store(word, &mut out);
            out[..L::WIDTH].to_vec()
        };
        let zip = |f: &dyn Fn(i32, i32) -> i32| -> Vec<i32> {
            x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect()
        };
        assert_eq!(lanes(a), x);
        assert_eq!(lanes(l.add(a, b)), zip(&i32::wrapping_add));
        assert_eq!(lanes(l.sub(a, b)), zip(&i32::wrapping_sub));
        assert_eq!(lanes(l.mul(a, b)), zip(&i32::wrapping_mul));
        assert_eq!(lanes(l.min(a, b)), zip(&i32::min));
        assert_eq!(lanes(l.max(a, b)), zip(&i32::max));
        assert_eq!(lanes(l.abs(a)), zip(&|x, _| x.wrapping_abs()));
        assert_eq!(lanes(l.shift_right(a, round % 32)), zip(&|x, _| x >> (round % 32)));
        let each: Vec<i32> = x
            .iter()
            .zip(&shifts)
            .map(|(x, s)| {
                x.cast_unsigned().checked_shr(s.cast_unsigned()).unwrap_or(0).cast_signed()
            })
            .collect();
        assert_eq!(lanes(l.shift_right_each(a, c)), each);
        let (from, to) = (mix.i32(5) as isize, mix.i32(5) as isize);
        let within: Vec<i32> = (0..L::WIDTH)
            .map(|i| if (from..to).contains(&i.cast_signed()) { x[i] } else { y[i] })
            .collect();
        assert_eq!(lanes(l.within(a, from, to, b)), within, "{from}..{to}");
        assert_eq!(l.greatest(a), *x.iter().max().unwrap());
        assert_eq!(l.total(a), x.iter().map(|x| i64::from(*x)).sum::<i64>());
        let (even, odd) = l.products(a, b);
        let product = |i: usize| i64::from(x[i]) * i64::from(y[i]);
        let sum: i64 = (0..L::WIDTH).map(product).fold(0, i64::wrapping_add);
        assert_eq!(l.wide_total(l.wide_add(even, odd)), sum);
        // Results of `scale` fit 32 bits where the product has 30 bits more than the shift at most.
        let shift = 1 + round % 32;
        let factor: Vec<i32> = m.iter().map(|m| m >> (31 - shift.min(31))).collect();
        let want: Vec<i32> = small
            .iter()
            .zip(&factor)
            .map(|(x, m)| i32::try_from(wide(*x, m.cast_unsigned(), shift)).unwrap())
            .collect();
        let got = scale(l, l.load(&small), l.load(&factor), half(l, shift), shift);
        assert_eq!(lanes(got), want, "shift {shift}");
        let looked: Vec<i32> = x
            .iter()
            .map(|x| table::EXP2[(x & 255).cast_unsigned() as usize].cast_signed())
            .collect();
        assert_eq!(lanes(l.lookup(&table::EXP2, a)), looked);
        let looked: Vec<i32> = m
            .iter()
            .map(|m| i32::from(table::GELU[(m.cast_unsigned() as usize >> (round % 30)).min(2047)]))
            .collect();
        let places: Vec<i32> = m.iter().map(|m| m >> (round % 30)).collect();
        assert_eq!(lanes(l.lookup16(Lookup16::new(&padded), l.load(&places))), looked);
        let codes: Vec<i32> = (0..32).map(|_| mix.i32(7)).collect();
        let mut bytes = [0; 32];
        let words = [0, 1, 2, 3].map(|i| l.load(&codes[i * L::WIDTH % 32..]));
        l.store_codes(&words, &mut bytes);
        assert_eq!(bytes.map(i32::from).to_vec(), codes);
    }
    let mut some = [9, 9, 9];
    l.store_some(l.load_some(&[1, 2]), &mut some);
    assert_eq!(some, [1, 2, 0]);
}

#[test]
fn portable_lanes_are_plain_arithmetic() {
    check(Portable);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_lanes_are_plain_arithmetic() {
    match crate::Avx2::detect() {
        Some(avx2) => check(avx2),
        None => println!("skipped: no AVX2"),
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx512_lanes_are_plain_arithmetic() {
    match crate::Avx512::detect() {
        Some(avx512) => check(avx512),
        None => println!("skipped: no AVX-512 VNNI"),
    }
}
