"""The peers that Homeroom is measured against; torch is used here and by nothing on the device."""
