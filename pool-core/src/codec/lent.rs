//! Large vectors of numbers as arguments and results, sent from where they lie: encoding them would take as much memory once more, and the time to fill it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytemuck::Pod;

use super::plain::for_numbers;

/// The numbers of a vector, as the bytes that they are. Shared by the task, which may be sent again, and by who sends it.
#[derive(Clone)]
pub(crate) struct Lent(Arc<dyn Numbers>);

trait Numbers: Send + Sync {
    fn bytes(&self) -> &[u8];
    fn count(&self) -> usize;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

struct Holder<T>(Vec<T>);

impl<T: Pod + Send + Sync> Numbers for Holder<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl Lent {
    /// Takes the vector out of a tuple of nothing but one, if it has more than so many bytes.
    pub(crate) fn take<T: 'static>(args: &mut T, more_than: usize) -> Option<Lent> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let args: &mut dyn Any = args;
        macro_rules! one {
            ($number:ty) => {
                if let Some((items,)) = args.downcast_mut::<(Vec<$number>,)>() {
                    let large = size_of_val(items.as_slice()) > more_than;
                    return large.then(|| Lent(Arc::new(Holder(std::mem::take(items)))));
                }
            };
        }
        for_numbers!(one);
        None
    }

    /// Puts it back into the arguments from which it was taken. Nobody else has it any more.
    pub(crate) fn give_back<T: 'static>(self, args: &mut T) {
        let (args, lent): (&mut dyn Any, _) = (args, self.0.into_any());
        macro_rules! one {
            ($number:ty) => {
                if let Some((items,)) = args.downcast_mut::<(Vec<$number>,)>() {
                    if let Ok(holder) = lent.downcast::<Holder<$number>>() {
                        *items = Arc::try_unwrap(holder)
                            .map_or_else(|shared| shared.0.clone(), |holder| holder.0);
                    }
                    return;
                }
            };
        }
        for_numbers!(one);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// How long it is when it is encoded.
    pub(crate) fn encoded_len(&self) -> usize {
        8 + self.bytes().len()
    }

    /// Appends it as any vector is encoded.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve_exact(self.encoded_len());
        out.extend_from_slice(&(self.0.count() as u64).to_le_bytes());
        out.extend_from_slice(self.bytes());
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({} bytes)", self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_vector_is_lent_and_given_back() {
        let mut args = (vec![1.5f64; 100],);
        assert!(Lent::take(&mut args, 800).is_none(), "it is not large");
        let args_before = args.0.clone();
        let lent = Lent::take(&mut args, 799).unwrap();
        assert_eq!(lent.bytes(), bytemuck::cast_slice::<f64, u8>(&args_before));
        assert_eq!(args, (vec![],));
        let (mut quick, mut slow) = (vec![7], vec![7]);
        lent.encode(&mut quick);
        crate::codec::encode_value(&args_before, &mut slow, u64::MAX).unwrap();
        assert!(quick == slow && quick.len() == 1 + lent.encoded_len());
        lent.give_back(&mut args);
        assert_eq!(args, (vec![1.5f64; 100],));
        assert!(Lent::take(&mut (vec!["text"],), 0).is_none());
    }
}
