//! Replaces the system's source of randomness in the program that this is linked into.
//!
//! Everything that is random in a Rust program (the thread's generator of `rand`, the keys of hash maps,
//! the choices of tokio's and futures' `select!`) is seeded by the C library's `getrandom`. This crate defines
//! that function, so the linker takes this one. Until [`seed`] is called it asks the kernel, as the original
//! does; afterwards it counts on from the seed. A simulation in a fresh thread of a process that has done
//! nothing random before is then the same each time.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What comes next, once there is a seed.
static STATE: Mutex<Option<u64>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<u64>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on all randomness of this process comes from `seed`.
pub fn seed(seed: u64) {
    *state() = Some(seed);
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The C library's function of that name.
///
/// # Safety
/// `buffer` must be valid for writes of `len` bytes, as C demands.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: c_uint) -> isize {
    if buffer.is_null() || len == 0 {
        return 0;
    }
    // SAFETY: the caller vouches for the buffer, and zeroes are valid bytes to borrow.
    let bytes = unsafe {
        std::ptr::write_bytes(buffer.cast::<u8>(), 0, len);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len)
    };
    if let Some(state) = state().as_mut() {
        for chunk in bytes.chunks_mut(8) {
            let random = next(state).to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        return isize::try_from(len).unwrap_or(isize::MAX);
    }
    let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
    match rustix::rand::getrandom(bytes, flags) {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(error) => {
            // SAFETY: the C library's own, valid for this thread.
            unsafe { *__errno_location() = error.raw_os_error() };
            -1
        }
    }
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    use std::thread;

    #[test]
    fn what_is_random_repeats_with_the_seed() {
        let draw = |seed| {
            super::seed(seed);
            thread::spawn(|| RandomState::new().hash_one(0_u64))
                .join()
                .unwrap()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
