module honeydue.example/app

go 1.25
