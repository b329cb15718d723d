module keylane/versus

go 1.22
