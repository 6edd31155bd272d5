module cascina.dev/box/router

go 1.26.0
