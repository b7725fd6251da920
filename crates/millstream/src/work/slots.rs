//! Things by a small number, which is given again when the thing has gone.

/// A table whose numbers are as small as they can be.
#[derive(Debug)]
pub(crate) struct Slots<V> {
    slots: Vec<Option<V>>,
    free: Vec<u32>,
}

impl<V> Default for Slots<V> {
    fn default() -> Self {
        Slots { slots: Vec::new(), free: Vec::new() }
    }
}

impl<V> Slots<V> {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: V) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(number as usize)
        {
            *slot = Some(value);
            return number;
        }
        self.slots.push(Some(value));
        // Memory ends long before 2^32 of them.
        (self.slots.len() - 1) as u32
    }

    pub(crate) fn get(&self, number: u32) -> Option<&V> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut V> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<V> {
        let value = self.slots.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut V)> {
        self.slots.iter_mut().enumerate().filter_map(|(number, slot)| slot.as_mut().map(|value| (number as u32, value)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| slot.as_ref().map(|value| (number as u32, value)))
    }
}
