module cascina.dev/box/canary

go 1.26.0
