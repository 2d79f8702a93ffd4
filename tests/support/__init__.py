"""What several files of tests share: tables of normalizers, draws and checks."""
